"""Folders as data sets, sites and operating systems leave them: who has which file, and what is not used."""

import errno
import json
import os
from pathlib import Path

import pytest

from monai_passion.data.layouts import find_cohort, guess_task, not_used
from monai_passion.data.naming import SYSTEMS
from monai_passion.data.sources import find_files, find_patients
from monai_passion.data.splits import patient_of
from monai_passion.errors import InputError
from monai_passion.tasks import load_task
from tests.data.layouts import touch_all

BRATS, MYOPS = load_task("brats_mri"), load_task("myops_cmr")


def cases(folder, task=BRATS, layout="auto"):
    """Case -> its roles and the names of their files."""
    cohort = find_cohort(folder, task, layout)
    return {
        case.name: {role: [path.name for path in paths] for role, paths in sorted(case.files.items())}
        for case in cohort.cases
    }


def roles(folder, task=BRATS):
    return {name: "+".join(files) for name, files in cases(folder, task).items()}


FOUND = {
    "BraTS 2020": (
        ["A_001/A_001_flair.nii.gz", "A_001/A_001_seg.nii.gz", "A_002/A_002_t1ce.nii.gz"],
        {"A_001": "flair+label", "A_002": "t1c"},
    ),
    "BraTS 2018": (
        ["HGG/B_1/B_1_flair.nii.gz", "LGG/B_2/B_2_t1.nii.gz"],
        {"B_1": "flair", "B_2": "t1"},
    ),
    "BraTS 2023": (
        [f"BraTS-GLI-00000-000/BraTS-GLI-00000-000-{name}.nii.gz" for name in ("t1n", "t1c", "t2w", "t2f", "seg")],
        {"BraTS-GLI-00000-000": "flair+label+t1+t1c+t2"},
    ),
    "UCSF-PDGM": (
        [
            f"UCSF-PDGM-0004_nifti/UCSF-PDGM-0004_{name}.nii.gz"
            for name in ("T1", "T1_bias", "FLAIR", "tumor_segmentation")
        ],
        {"UCSF-PDGM-0004_nifti": "flair+label+t1"},
    ),
    "UPENN-GBM": (
        [
            "images_structural/UPENN-GBM-00001_11/UPENN-GBM-00001_11_T1.nii.gz",
            "images_structural/UPENN-GBM-00001_11/UPENN-GBM-00001_11_T1GD.nii.gz",
            "images_structural/UPENN-GBM-00002_11/UPENN-GBM-00002_11_T1.nii.gz",
            "images_segm/UPENN-GBM-00001_11_segm.nii.gz",
        ],
        {"UPENN-GBM-00001_11": "label+t1+t1c", "UPENN-GBM-00002_11": "t1"},
    ),
    "LUMIERE": (
        [f"Patient-00{p}/week-00{w}/{name}.nii.gz" for p, w in ((1, 0), (1, 7), (2, 0)) for name in ("CT1", "FLAIR")]
        + ["Patient-001/week-000/HD-GLIO-AUTO-segmentation/native/segmentation_CT1_origspace.nii.gz"],
        {"Patient-001_week-000": "flair+t1c", "Patient-001_week-007": "flair+t1c", "Patient-002_week-000": "flair+t1c"},
    ),
    "LUMIERE, one patient": (
        [f"Patient-001/week-{w}/{name}.nii.gz" for w in ("000-1", "044") for name in ("CT1", "FLAIR")]
        + ["Patient-001/week-044/HD-GLIO-AUTO-segmentation/registered/segmentation.nii.gz"]
        + ["Patient-001/week-044/DeepBraTumIA-segmentation/atlas/skull_strip/ct1_skull_strip.nii.gz"]
        + ["Patient-001/week-044/DeepBraTumIA-segmentation/atlas/segmentation/seg_mask.nii.gz"],
        {"Patient-001_week-000-1": "flair+t1c", "Patient-001_week-044": "flair+t1c"},
    ),
    "LUMIERE, below Imaging": (
        [f"Imaging/Patient-00{p}/week-044/FLAIR.nii.gz" for p in (1, 2)],
        {"Imaging_Patient-001_week-044": "flair", "Imaging_Patient-002_week-044": "flair"},
    ),
    "BIDS": (
        [
            "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz",
            "sub-01/ses-1/anat/sub-01_ses-1_ce-gadolinium_T1w.nii.gz",
            "sub-01/ses-2/anat/sub-01_ses-2_FLAIR.nii.gz",
            "sub-02/anat/sub-02_T2w.nii.gz",
            "derivatives/masks/sub-02/anat/sub-02_space-T2w_dseg.nii.gz",
            "derivatives/fmriprep/sub-02/anat/sub-02_desc-preproc_T2w.nii.gz",
        ],
        {"sub-01_ses-1": "t1+t1c", "sub-01_ses-2": "flair", "sub-02": "label+t2"},
    ),
    "flat": (
        ["a_flair.nii.gz", "a_t1.nii.gz", "b_flair.nii.gz", "b_seg.nii.gz"],
        {"a": "flair+t1", "b": "flair+label"},
    ),
    "flat, one file each": (["a_flair.nii.gz", "b_t1.nii.gz"], {"a": "flair", "b": "t1"}),
    "archives and what is unfinished": (
        ["A/A_t1.nii.gz", "A/A_flair.nii.gz.part", "A/A.zip", "B/B_t1.nii.gz", "B/B_t2.nii.gz.gz", "C.tar.gz"],
        {"A": "t1", "B": "t1"},
    ),
    "labels in a folder of their own": (
        ["images/a_flair.nii.gz", "images/b_flair.nii.gz", "labels/a_seg.nii.gz", "labels/c_seg.nii.gz"],
        {"a": "flair+label", "b": "flair"},
    ),
    "a folder per sequence": (
        ["flair/a_flair.nii.gz", "flair/b_flair.nii.gz", "t1/a_t1.nii.gz", "t1/b_t1.nii.gz"],
        {"a": "flair+t1", "b": "flair+t1"},
    ),
    "a folder per sequence of a patient": (
        ["p1/T1/0001.nii.gz", "p1/FLAIR/0002.nii.gz", "p2/T1/0001.nii.gz"],
        {"p1": "flair+t1", "p2": "t1"},
    ),
    "a folder per sequence, names that tell nothing": (
        ["flair/a.nii.gz", "flair/b.nii.gz", "t1/a.nii.gz", "t1/b.nii.gz"],
        {"a": "flair+t1", "b": "flair+t1"},
    ),
    "a folder per sequence in each patient's": (
        [f"P{p}/{m}/P{p}_{m}.nii.gz" for p in (1, 2) for m in ("FLAIR", "T1", "T1c")]
        + [f"P{p}/seg/P{p}_seg.nii.gz" for p in (1, 2)],
        {"P1": "flair+label+t1+t1c", "P2": "flair+label+t1+t1c"},
    ),
    "equal names in different folders": (
        ["p1/brain_flair.nii.gz", "p2/brain_flair.nii.gz", "p2/brain_t1.nii.gz"],
        {"p1": "flair", "p2": "flair+t1"},
    ),
    "equal folders at different sites": (
        ["s1/001/001_t1.nii.gz", "s2/001/001_t1.nii.gz", "s2/002/002_t1.nii.gz"],
        {"s1_001": "t1", "s2_001": "t1", "002": "t1"},
    ),
    "flat at different sites": (
        ["s1/a_t1.nii.gz", "s1/b_t1.nii.gz", "s2/a_flair.nii.gz", "s2/c_t1.nii.gz"],
        {"s1_a": "t1", "s2_a": "flair", "b": "t1", "c": "t1"},
    ),
    "exports of a scanner": (
        ["p1/3_AX_T1_POST.nii.gz", "p1/5_T2_TSE_tra.nii.gz", "p2/AX T1.nii.gz"],
        {"p1": "t1c+t2", "p2": "t1"},
    ),
    "what macOS leaves": (
        ["p1/p1_t1.nii.gz", "p1/._p1_t1.nii.gz", "__MACOSX/p1/._p1_t1.nii.gz", "__MACOSX/p2/p2_t1.nii.gz", "._x.nii"],
        {"p1": "t1"},
    ),
    "hidden folders": ([".trash/p2/p2_t1.nii.gz", "p1/p1_t1.nii.gz"], {"p1": "t1"}),
    "a stray image beside the patients": (
        ["p1/p1_t1.nii.gz", "p2/p2_t1.nii.gz", "mni_T1.nii.gz"],
        {"p1": "t1", "p2": "t1"},
    ),
    "strays beside the patients": (
        [*(f"p{k}/p{k}_t1.nii.gz" for k in range(4)), "x_t1.nii.gz", "y_t2.nii.gz"],
        {f"p{k}": "t1" for k in range(4)},
    ),
    "older images below a patient's": (
        ["p1/p1_t1.nii.gz", "p1/old/p1_t1.nii.gz", "p2/p2_t1.nii.gz"],
        {"p1": "t1", "p2": "t1"},
    ),
    "one patient": (["p_t1.nii.gz", "p_flair.nii.gz"], {"one patient": "flair+t1"}),
    "a label below its patient's folder": (
        ["p1/p1_t1.nii.gz", "p1/label/tumor_seg.nii.gz", "p2/p2_t1.nii.gz"],
        {"p1": "label+t1", "p2": "t1"},
    ),
}


@pytest.mark.parametrize("name", FOUND)
def test_a_layout_gives_each_patient_the_right_files(tmp_path, name):
    files, expected = FOUND[name]
    folder = touch_all(tmp_path / name, *files)
    assert roles(folder) == expected


@pytest.mark.parametrize("name", FOUND)
def test_every_file_is_used_or_named(tmp_path, name):
    folder = touch_all(tmp_path / name, *FOUND[name][0])
    cohort = find_cohort(folder, BRATS)
    used = [path for case in cohort.cases for paths in case.files.values() for path in paths]
    files = {
        p
        for p in folder.rglob("*")
        if p.is_file() and not any(q.startswith((".", "__")) for q in p.relative_to(folder).parts)
    }
    assert sorted(used + [path for path, _ in cohort.unused]) == sorted(files)
    assert all(why for _, why in cohort.unused)


@pytest.mark.parametrize("name", SYSTEMS)
def test_what_a_system_keeps_beside_files_is_nobodys(tmp_path, name):
    folder = touch_all(tmp_path, "A/A_t1.nii.gz", "A/Thumbs.db", f"{name}/A_t1.nii.gz", f"A/{name}/A_t1.nii.gz")
    cohort = find_cohort(folder, BRATS)
    assert (roles(folder), cohort.unused) == ({"A": "t1"}, [])


@pytest.mark.parametrize("name", [name for name in FOUND if name != "flat, one file each"])
def test_predict_finds_the_same_patients(tmp_path, name):
    files, expected = FOUND[name]
    folder = touch_all(tmp_path / name, *files)
    patients = find_patients(folder, BRATS) or {name: folder}
    found = {
        patient: "+".join(sorted(find_files(source, BRATS) if not isinstance(source, dict) else source))
        for patient, source in patients.items()
    }
    assert found == {case: "+".join(r for r in text.split("+") if r != "label") for case, text in expected.items()}


def test_the_examinations_in_the_folder_of_one_patient_are_of_one_patient(tmp_path):
    folder = touch_all(tmp_path / "anna", "ses-1/flair.nii.gz", "ses-2/flair.nii.gz", "ses-2/t1.nii.gz")
    assert roles(folder) == {"anna_ses-1": "flair", "anna_ses-2": "flair+t1"}
    assert {patient_of(name) for name in roles(folder)} == {"anna"}


def test_a_label_map_below_its_patients_images_is_named_with_the_remedy(tmp_path):
    name = "p1/HD-GLIO-AUTO-segmentation/registered/segmentation.nii.gz"
    unused = find_cohort(touch_all(tmp_path, "p1/FLAIR.nii.gz", "p2/FLAIR.nii.gz", name), BRATS).unused
    assert [why for _, why in unused] == [
        "a label map below a patient's folder; put it beside the images that it was drawn on"
    ]


def test_two_files_for_a_sequence_are_an_error_that_names_both(tmp_path):
    folder = touch_all(tmp_path, "p1/p1_t1ce.nii.gz", "p1/p1_t1gd.nii.gz")
    (case,) = find_cohort(folder, BRATS).cases
    with pytest.raises(InputError, match=r"p1 has two files for t1c: .*p1_t1ce.nii.gz and .*p1_t1gd.nii.gz"):
        _ = case.images


def test_files_of_two_patients_in_one_folder_are_not_segmented_as_one(tmp_path):
    with pytest.raises(InputError, match=r"files of 2 patients by their names \(anna, bob\)"):
        find_files(touch_all(tmp_path, "anna_flair.nii.gz", "bob_t1.nii.gz"), BRATS)


def test_files_in_formats_that_are_not_read_are_named_with_the_remedy(tmp_path):
    touch_all(tmp_path, "p1/VSD.Brain.XX.O.MR_T1c.685.mha", "p1/p1_t1.nii.gz")
    cohort = find_cohort(tmp_path, BRATS)
    assert [why for _, why in cohort.unused] == ["a .mha file, which is not read; convert it to .nii.gz"]


def decathlon(folder, modality, **more):
    index = {
        "modality": modality,
        "training": [{"image": "./imagesTr/x.nii.gz", "label": "./labelsTr/x.nii.gz"}],
        **more,
    }
    folder.mkdir(exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps(index))
    return folder


def test_a_decathlon_data_set_has_its_channels_and_the_names_of_its_labels(tmp_path):
    folder = decathlon(
        tmp_path, {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}, labels={"0": "background", "1": "edema"}
    )
    cohort = find_cohort(folder, BRATS)
    assert (cohort.layout, cohort.cases[0].channels) == ("decathlon", ("flair", "t1", "t1c", "t2"))
    assert dict(cohort.label_names) == {0: "background", 1: "edema"}


def test_a_channel_that_the_task_does_not_use_is_none(tmp_path):
    assert find_cohort(decathlon(tmp_path, {"0": "FLAIR", "1": "PD"}), BRATS).cases[0].channels == ("flair", None)
    with pytest.raises(InputError, match="none of CT is a modality of brats_mri"):
        find_cohort(decathlon(tmp_path / "ct", {"0": "CT"}), BRATS)


def test_an_nnunet_data_set_is_read_by_its_channels(tmp_path):
    touch_all(
        tmp_path, "imagesTr/a_0000.nii.gz", "imagesTr/a_0001.nii.gz", "labelsTr/a.nii.gz", "imagesTs/b_0000.nii.gz"
    )
    index = {
        "channel_names": {"0": "FLAIR", "1": "T1ce"},
        "labels": {"background": 0, "edema": 1},
        "file_ending": ".nii.gz",
    }
    (tmp_path / "dataset.json").write_text(json.dumps(index))
    assert roles(tmp_path) == {"a": "flair+label+t1c", "b": "flair"}
    assert dict(find_cohort(tmp_path, BRATS).label_names) == {0: "background", 1: "edema"}


def test_images_of_other_formats_in_an_nnunet_data_set_are_named(tmp_path):
    touch_all(tmp_path, "imagesTr/a_0000.nii.gz", "imagesTr/b_0000.nrrd", "imagesTr/c_0000.mha", "imagesTr/notes.txt")
    (tmp_path / "dataset.json").write_text(json.dumps({"channel_names": {"0": "FLAIR"}, "labels": {}}))
    cohort = find_cohort(tmp_path, BRATS)
    assert [path.name for path, why in cohort.unused if "convert it to .nii.gz" in why] == ["b_0000.nrrd", "c_0000.mha"]
    assert len(cohort.unused) == 2


@pytest.mark.parametrize("key", ["modality", "channel_names"])
def test_one_sequence_named_for_two_channels_is_refused(tmp_path, key):
    folder = decathlon(tmp_path, {"0": "FLAIR", "1": "T1w", "2": "T1", "3": "T2w"})
    index = json.loads((folder / "dataset.json").read_text())
    index[key] = index.pop("modality")
    (folder / "dataset.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"names t1 2 times \(channels 1 T1w, 2 T1\)"):
        find_cohort(folder, BRATS)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"modality": 3}', '{"modality": {"a": "T1"}}'])
def test_a_damaged_dataset_json_is_an_error_that_names_it(tmp_path, text):
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(InputError, match=r"dataset\.json"):
        find_cohort(tmp_path, BRATS)


def test_the_task_is_the_one_whose_modalities_the_names_tell(tmp_path):
    assert guess_task(touch_all(tmp_path / "heart", "m/m_C0.nii.gz", "m/m_LGE.nii.gz", "m/m_T2.nii.gz")) == MYOPS
    assert guess_task(touch_all(tmp_path / "head", "p/p_T2.nii.gz", "p/p_T1.nii.gz")) == BRATS


def test_what_is_not_used_is_one_line_with_one_file_of_each_kind(tmp_path):
    unused = [(tmp_path / f"p{k}/mask.nii.gz", "a mask (mask)") for k in range(9)] + [
        (tmp_path / "x.nii", "a map (map)")
    ]
    assert not_used(unused, tmp_path) == "not used: p0/mask.nii.gz and 8 more (a mask (mask)), x.nii (a map (map))"


@pytest.mark.parametrize("name", ["patient{:02}", "P{}", "scan{}", "{:03}", "sub{:02}", "vol{}", "Brain{}"])
def test_numbered_patients_in_one_folder_stay_apart(tmp_path, name):
    one, two = name.format(1), name.format(2)
    files = [f"{one}_flair.nii.gz", f"{one}_t1.nii.gz", f"{two}_t2.nii.gz", f"{two}_t1ce.nii.gz"]
    assert roles(touch_all(tmp_path / "two", *files)) == {one: "flair+t1", two: "t1c+t2"}
    with pytest.raises(InputError, match="files of 2 patients"):
        find_files(tmp_path / "two", BRATS)
    alone = touch_all(tmp_path / "flat", f"{one}_flair.nii.gz", f"{two}_t1.nii.gz")
    assert set(cases(alone, layout="flat")) == {one, two}


def test_numbers_that_are_all_different_are_those_of_series(tmp_path):
    folder = touch_all(tmp_path / "anna", "1_flair.nii.gz", "2_t1.nii.gz", "AX3_t2.nii.gz", "scan4_t1ce.nii.gz")
    assert roles(folder) == {"anna": "flair+t1+t1c+t2"}


@pytest.mark.parametrize(("names", "told"), [(("001", "002"), True), (("001", "001"), False)])
def test_numbers_in_folders_of_sequences_that_may_be_patients_are_told(tmp_path, caplog, names, told):
    folder = touch_all(
        tmp_path / "anna", *(f"{m}/{name}.nii.gz" for m, name in zip(("flair", "t2"), names, strict=True))
    )
    assert roles(folder) == {"anna": "flair+t2"}
    assert ("--layout flat takes them for patients" in caplog.text) == told
    assert len(cases(folder, layout="flat")) == (2 if told else 1)


@pytest.mark.parametrize(
    "pattern",
    [
        "{p}/{p}_{m}/{p}_{m}.nii.gz",
        "{p}/{k}_{m}/{k}_{m}.nii.gz",
        "{p}/{p}_{m}.nii/{k}.nii",
        "{p}/VSD.Brain.XX.O.MR_{m}.1234/VSD.Brain.XX.O.MR_{m}.1234.nii.gz",
        "{p}/{m}/image.nii.gz",
    ],
)
def test_a_folder_per_sequence_is_a_part_of_its_patients(tmp_path, pattern):
    for p in ("anna", "bob"):
        touch_all(tmp_path, *(pattern.format(p=p, k=k, m=m) for k, m in enumerate(("T1", "T1c", "T2", "FLAIR"), 3)))
    assert roles(tmp_path) == dict.fromkeys(("anna", "bob"), "flair+t1+t1c+t2")


def test_folders_of_patients_with_one_sequence_each_are_patients(tmp_path):
    touch_all(tmp_path, "MS_T1_001/T1.nii.gz", "MS_T1_002/T1.nii.gz", "MS_T1_003/flair.nii.gz")
    assert len(roles(tmp_path)) == 3


@pytest.mark.parametrize("file", ["{p}_flair.nii.gz", "flair.nii.gz"])
def test_examinations_in_folders_above_their_patients_are_of_the_same_patients(tmp_path, file):
    touch_all(tmp_path, *(f"{when}/P{k}/{file.format(p=f'P{k}')}" for k in (1, 2) for when in ("baseline", "followup")))
    assert {name: patient_of(name) for name in roles(tmp_path)} == {
        f"P{k}_{when}": f"P{k}" for k in (1, 2) for when in ("baseline", "followup")
    }


def test_a_name_that_begins_with_an_entity_of_bids_alone_is_read(tmp_path):
    assert roles(touch_all(tmp_path, "P1/ses-01_T1w.nii.gz", "P2/run-01_FLAIR.nii.gz")) == {"P1": "t1", "P2": "flair"}


@pytest.mark.parametrize("name", ["session4", "tobias", "s1"])
@pytest.mark.parametrize("form", ["T1_bias", "T1_n4itk", "T1N4", "T1_BiasFieldCorrected", "T1_unstripped"])
def test_the_plain_file_is_taken_and_not_a_corrected_one_whatever_the_patient_is_called(tmp_path, name, form):
    touch_all(tmp_path, *(f"a/{name}_{file}.nii.gz" for file in ("T1", form, "FLAIR")))
    assert cases(tmp_path)["a"] == {"flair": [f"{name}_FLAIR.nii.gz"], "t1": [f"{name}_T1.nii.gz"]}


def test_a_folder_that_may_not_be_read_is_an_error_and_not_a_patient_less(tmp_path, monkeypatch):
    touch_all(tmp_path, *(f"{name}/{name}_{m}.nii.gz" for name in ("a", "b") for m in ("T1", "FLAIR")))
    scan = os.scandir

    def refuse(path):
        if Path(path).name == "b":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(InputError, match=r"b cannot be read \(Permission denied\)"):
        find_cohort(tmp_path, BRATS)
    assert set(cases(tmp_path / "a")) == {"a"}
