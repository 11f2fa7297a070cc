"""DICOM series made of a phantom head."""

import nibabel as nib
import numpy as np
import pydicom

SHAPE = (26, 24, 17)
OBLIQUE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.1, -0.2, 0.3) @ np.diag([1.1, 0.9, 2.5]) @ np.diag([-1, -1, 1]), [12.5, -30, 7]
)
SAGITTAL = nib.affines.from_matvec(np.array([[0, 0, 3.0], [-1.0, 0, 0], [0, -1.0, 0]]), [-20, 10, 15])


def head(seed=0):
    """A ball of noise, of whole numbers, in an empty box."""
    grid = np.stack(np.meshgrid(*(np.linspace(-1.2, 1.2, n) for n in SHAPE), indexing="ij"))
    values = np.random.default_rng(seed).integers(200, 1000, SHAPE)
    return np.where((grid**2).sum(0) < 1, values, 0).astype(np.uint16)


def write_series(folder, description, data=None, affine=OBLIQUE, uid=None, **values):
    """One file a slice, numbered against the order of the slices, with the affine's first two axes in the slice."""
    data = head() if data is None else data
    lps = np.diag([-1, -1, 1, 1]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    uid = uid or pydicom.uid.generate_uid()
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(data.shape[2]):
        meta = pydicom.dataset.FileMetaDataset()
        meta.MediaStorageSOPClassUID = pydicom.uid.MRImageStorage
        meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
        meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        image = pydicom.dataset.FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
        image.SOPClassUID, image.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        image.PatientID, image.PatientName, image.PatientBirthDate, image.PatientSex = "P1", "Doe^Jane", "", ""
        image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = "1.2.3", uid, "1.2.3.4"
        image.StudyID, image.StudyDate, image.StudyTime, image.AccessionNumber = "1", "20200101", "120000", ""
        image.ReferringPhysicianName, image.PositionReferenceIndicator = "", ""
        image.Modality, image.Manufacturer, image.SeriesDescription = "MR", "Phantom", description
        image.SeriesNumber, image.InstanceNumber, image.ImageType = 1, data.shape[2] - k, ["ORIGINAL", "PRIMARY", "M"]
        image.ScanningSequence, image.SequenceVariant, image.MRAcquisitionType = "SE", "NONE", "2D"
        image.EchoTime, image.RepetitionTime = 10, 500
        image.Rows, image.Columns, image.SamplesPerPixel = data.shape[1], data.shape[0], 1
        image.PhotometricInterpretation, image.PixelRepresentation = "MONOCHROME2", 0
        image.BitsAllocated, image.BitsStored, image.HighBit = 16, 16, 15
        image.ImageOrientationPatient = [*(lps[:3, 0] / spacing[0]), *(lps[:3, 1] / spacing[1])]
        image.ImagePositionPatient = list((lps @ [0, 0, k, 1])[:3])
        image.PixelSpacing, image.SliceThickness = [spacing[1], spacing[0]], spacing[2]
        image.SpacingBetweenSlices = spacing[2]
        for name, value in values.items():
            setattr(image, name, value)
        image.PixelData = data[:, :, k].T.tobytes()
        image.save_as(folder / f"{uid[-6:]}_{data.shape[2] - k:03}.dcm", enforce_file_format=True)
    return folder
