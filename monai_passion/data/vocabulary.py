"""The words that names of files and of DICOM series are made of, for `monai_passion.data.naming`; by spaces apart."""

from __future__ import annotations

import re

__all__ = [
    "CONTRAST",
    "EVENTS",
    "EXCLUDED",
    "HARMLESS",
    "IN_FILES",
    "LABELS",
    "MARKERS",
    "MEASURED",
    "NATIVE",
    "NEGATIONS",
    "NEUTRAL",
    "NO_LABELS",
    "SEQUENCES",
    "SPACES",
    "T1C",
    "TUMORS",
    "UNCLEAR",
    "VARIANTS",
]

SEQUENCES = {
    "t1": "t1 t1w t1n t1wi t1weighted mprage memprage mp2rage unit1 spgr fspgr irspgr irfspgr bravo",
    "t2": "t2 t2w t2n t2wi t2weighted",
    "flair": "flair fla flr t2f t2wflair darkfluid fluidattenuated",
    "pd": "pd pdw protondensity",
}
"""Words that name a sequence. A vendor's words that do not (SPACE, CUBE, TSE, PROPELLER) are in ``NEUTRAL``."""
T1C = "ct1 t1ks t1wks cet1"
"""Words that name a T1 and its contrast agent in one."""
CONTRAST = (
    "contrast ce gd gad gado gadolinium gadovist gadavist gadobutrol dotarem magnevist multihance prohance omniscan "
    "clariscan vueway elucirem primovist eovist km kontrast kontrastem kontrastu kontrastli kontrastmittel contraste "
    "mdc contrasto postcontrast "
    f"enhanced enhancement enh inj injection injected injecte gbca civ post {T1C}"
)
"""Words of a T1 after contrast agent."""
NATIVE = "precontrast noncontrast nocontrast unenhanced nonenhanced native nativ kontrastsiz plain pre"
NEGATIONS = (
    "no non not without ohne kein keine sans senza sin sem wo pre before prior vor avant zonder voor uten utan bez"
)
"""Turn the word of contrast that follows into its opposite; alone, "without" and "wo" do so, too."""
EVENTS = (
    "op operative operation operativ surgery surgical treatment tx therapy rt radiation radiotherapy chemo crt "
    "resection biopsy procedure processed processing proc mortem ictal stroke injury traumatic transplant training "
    "baseline"
)
"""Before or after these a patient, not an image, is: pre_treatment, post-op."""
EXCLUDED = {
    "a mask": "bin binary binarized binarised thr thresh threshold thresholded otsu eroded "
    "dilated mask masks brainmask roi maske masken masque masques maschera maschere mascara mascaras mascarilla "
    "masker maska",
    "a segmentation": "seg segm segmentation label labels prob probs probability probabilities probseg pred prediction "
    "aseg aparc wmparc parcellation tissue pve pveseg firstseg csf gm wm ples posteriors ribbon 5tt gmwmi automated "
    "approx uncertainty posterior cortex cortical subcortical lobe lobes gyri sulci parenchyma parcels parcellated "
    "segmented segmentiert segmente segmentado segmentato probabilite probabilites probabilidad probabilidades "
    "probabilita wahrscheinlichkeit wahrscheinlichkeiten confidence softmax sigmoid logit logits "
    "aal jhu brodmann schaefer desikan destrieux dkt",
    "a surface": "surface surf pial inflated curv curvature mesh",
    "a feature of an image": "grad grads gradx grady gradz gradients gradmag feature features radiomic radiomics glcm "
    "glrlm glszm gldm ngtdm gabor wavelet wavelets haralick texture textures sobel laplacian entropy hog lbp fractal "
    "hessian frangi",
    "a PET or CT": "pet petct fdg fet fdopa psma suv suvr suvbw amyloid pib florbetapir flortaucipir mrac ct cct "
    "cbct ncct cta ctp hounsfield xray",
    "a map": "anomaly anomalies map maps mapping molli shmolli t1map t2map rho t1rho relaxometry relax relaxation qsm "
    "mtr values ratio distance jacobian jac warpfield deformation displacement field fieldmap biasfield "
    "thickness std sd saliency gradcam attention cluster edges contour border skeleton signeddistance histogram "
    "stdev variance snr cnr noise residual error asymmetry umap permeability kep",
    "a transformation": "warp 1warp 1inversewarp inversewarp warpcoef coeff coef 0genericaffine genericaffine xfm tfm "
    "def disp velocity gradient",
    "another image in its space": "inversewarped",
    "a plan of a radiotherapy": "dose rtdose rtstruct rtss rtplan pseudoct",
    "an image with parts taken out or made up": "voided inpainted inpainting inference filled",
    "one of several inversions": "inv1 inv2",
    "a T2* or susceptibility image": "star t2star t2starw t2s swi swan swip suscept susceptibility hemo medic mgre "
    "merge",
    "a diffusion image": "b0 b50 b500 b800 b1000 b2000 dwi dti diff diffusion trace tracew "
    "adc hbv ep2d fa md eadc isodiff resolve kurtosis dki noddi ivim tensor tracts tractography fod",
    "a perfusion or functional image": "bold fmri perf perfusion asl pcasl pasl pwi dsc dce cbv cbf "
    "mtt ttp tmax ktrans rcbv rcbf relcbv relcbf ncbv ncbf relcorrcbv leakage",
    "an angiography": "tof mra mrv angio angiography venography pca",
    "a localizer": "loc localizer localiser scout survey smartbrain 3plane 3pl aahead aahscout calibration cal asset "
    "posdisp",
    "a difference image": "subtraction subtracted subtract subtr subtraktion soustraction sottrazione sustraccion "
    "substraccion subtracao minus delta difference",
    "a spectroscopy": "mrs svs csi spectroscopy spectro press",
    "a projection": "mip minip",
    "a dynamic series": "dynamic dyn dynamics cine twist",
    "a double or other inversion recovery": "dir fgatir",
    "a synthetic image": "symri magic pseudo virtual simulated synth synthetic synthesized synthesised "
    "synthsr synthseg generated predicted hallucinated imputed fake gan augmented flipped mirrored rotated noisy "
    "corrupted undersampled",
    "a fusion of images": "fused fusion",
    "a template": "template atlas",
    "a phase or Dixon image": "phase ph pha imag imaginary real inphase opp opposed outphase fatfraction",
    "a fat-suppressed inversion recovery": "stir tirm",
    "a steady-state image": "ciss fiesta fisp ci3d",
    "a screenshot or report": "screenshot screensave report phoenix overlay preview heatmap thumbnail",
}
"""What a word says that an image is, other than a plain sequence. A task that has such an image names it itself."""
VARIANTS = "bias n4 biascorr unstripped"
"""Of the files of a sequence, the one with the fewest of these in its name is the sequence."""
NEUTRAL = (
    "proband probanden mr mri vol volume volumetric inplane sub "
    "brain head cranial skull axial ax axi ax3d sagittal sag coronal cor tra transversal transverse trans obl "
    "oblique 2d 3d iso isotropic tse fse se ir tir haste space cube vista propeller blade multivane frfse ffe tfe tfl "
    "tfl3d fl2d fl3d flash vibe thrive lava mpr mprnav wi weighted weighting w fs fatsat fat sat spair spir ns p2 p3 "
    "p4 caipi grappa sense cs dark fluid drive starvibe gre eg fast turbo spin echo single shot high res hires hr thin "
    "masked stripped skullstripped strip ss bet hdbet brainextracted extracted preproc preprocessed pp norm normalized "
    "normalised synthstrip zscore resampled resliced reg registered coreg coregistered aligned rigid affine warped mni "
    "mni152 sri sri24 crop cropped defaced deface anon anonymized mm 1mm 1mm3 rec reformat reformatted orig original "
    "raw final v1 v2 of the and with mit con avec com image scan series tumor tumour lesion lesions whole "
    "manual consensus expert corrected"
)
SPACES = "mni mni152 sri sri24 atlas template native standard talairach reference ref anat common subject patient acpc"
"""Spaces that an image may have been brought to."""
LABELS = (
    "seg segm segmentation label labels dseg gt groundtruth goldstandard truth gtv annotation annotations delineation "
    "consensus ot referencestandard "
    "segmentations segmentierung segmentierungen segmentazione segmentacion segmentacao segmentatie "
    "segmentering etiqueta etiquetas etiquette etiquettes etichetta etichette beschriftung"
)
TUMORS = (
    "tumor tumour lesion lesions tumeur tumeurs tumore tumori tumores lesione lesioni lesao lesoes lasion lasionen "
    "laesion laesionen"
)
"""A mask of one of these is a label map."""
IN_FILES = {
    "a tumor or lesion, be it an image or a label map": TUMORS,
    "a reconstruction": "reconstruction reconstructions reconstructed rekonstruktion rekonstruktionen rekonstruiert "
    "reconstruite ricostruzione reconstruccion reconstrucao",
}
"""What a word beside a sequence says of a file; of a series, whose scanner made an image, it says nothing."""
UNCLEAR = "ca"
"""After "T1" a contrast agent; before it, perhaps somebody's initials."""
NO_LABELS = (
    "brain skull prob probs probability probabilities probseg pred prediction automated approx uncertainty parenchyma "
    "tissue aseg aparc parcellation pve csf gm wm bet synthseg fast first freesurfer fastsurfer brainstem hippocampus "
    "hippocampal ventricle ventricles thalamus cortex cortical lobes vessel vessels auto"
)
HARMLESS = (
    "noskull n4corrected n4itk bfc denoised hist matched histmatched nyul whitestripe dynaviews prop hcp gdc dc "
    "restore restored stereotactic intraop mtc mt iv blanco jet canon aice clear mean postoperatively intraoperative "
    "followup fu bl week day month year visit session ses time tp timepoint uni images inversion recovery lin nonlin "
    "upsampled downsampled flirt fnirt ants freesurfer eq tilt qtse irse mvxd orbits orbit sr superres lowres longtr "
    "unenh c noninjected uninjected nach after brainextraction brainextractionbrain brainnormalizedtotemplate fossa "
    "hippocampus pituitary sella iac spine neck face head siemens ge philips toshiba hitachi prisma skyra aera trio "
    "verio signa achieva ingenia h5 mgz mgh hdr img mif json routine protocol standard new old copy kopie test export "
    "lpi ras lps las rpi rai asl resized padded scaled rescaled harmonized combat smoothed smooth clean cleaned "
    "processed motion moco motioncorrected magnitude mag dis2d dis3d nd tr te ti fov nex slices slice gap thick file "
    "data nifti nii dicom dcm acpc float int16 uint8"
)
"""Words that change nothing of what an image is; they count for nothing but `unknown_words`."""
MEASURED = re.compile(
    r"[a-z]?\d+[a-z]?|\d+(?:mm|cm|cc|ml|slices?|yrs?|t|p|x|dir)|(?:tr|te|ti|rf|se|ser|series|im|img|scan|run|echo|tp|v|s"
    r"|week|wk|day|month|mo|visit|time|session|ses|y)\d+|\d+(?:x\d+)+(?:mm)?|(?:in|to|on)(?:t1|t2|flair|pd|mni)\w*|[0-9a-f]{8,}"
)
"""Sizes, echo and repetition times, numbers of series and visits, dates."""
MARKERS = "to onto into in on ref"
