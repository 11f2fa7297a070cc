"""Names of files and series, and what they hold: ``names.csv`` has the right answers."""

import csv
from pathlib import Path

import pytest

from monai_passion.data.naming import ENDINGS, LABEL, doubtful_names, read_description, read_name, unknown_words
from monai_passion.tasks import load_task, task_from_json

BRATS, MYOPS = load_task("brats_mri"), load_task("myops_cmr")
NAMES = list(csv.DictReader((Path(__file__).parent / "names.csv").read_text(encoding="utf-8").splitlines()))


def task(*modalities, **aliases):
    return task_from_json(
        {
            "task": "other",
            "modalities": [{"name": m, "aliases": aliases.get(m, [])} for m in modalities],
            "classes": [{"name": "background", "value": 0}, {"name": "lesion", "value": 1}],
        }
    )


def test_the_table_has_150_names_each_once():
    assert len({row["name"] for row in NAMES}) == len(NAMES) >= 150


@pytest.mark.parametrize("row", NAMES, ids=lambda row: row["name"])
def test_a_name_tells_the_sequence(row):
    said = read_name(row["name"], BRATS)
    assert said.role == (row["sequence"] or None), said
    assert bool(said.why) == (said.role is None)


@pytest.mark.parametrize("row", [r for r in NAMES if not r["name"].endswith(ENDINGS)], ids=lambda row: row["name"])
def test_a_description_tells_the_sequence(row):
    role, why = read_description(row["name"], BRATS)
    assert role == (row["sequence"] or None), why


@pytest.mark.parametrize(
    ("text", "role"),
    [("PosDisp: [5] t1_mprage_sag", None), ("MIP_3 T1", None), ("Seg 2 T1", LABEL), ("CE 2 T1 tra", "t1")],
)
def test_no_word_of_a_description_is_taken_for_the_name_of_a_patient(text, role):
    assert read_description(text, BRATS)[0] == role


@pytest.mark.parametrize(
    ("role", "expected"), [("C0", "bssfp"), ("DE", "lge"), ("LGE", "lge"), ("T2", "t2"), ("gd", LABEL), ("T1", None)]
)
def test_a_name_of_myops_tells_the_sequence(role, expected):
    said = read_name(f"myops_training_101_{role}.nii.gz", MYOPS)
    assert (said.role, said.patient) == (expected, "myops_training_101")


@pytest.mark.parametrize(
    ("names", "own"),
    [
        (
            {"p_t2w.nii.gz": "t2", "p_adc.nii.gz": "adc", "p_hbv.nii.gz": "hbv", "p_t1.nii.gz": None},
            task("t2", "adc", "hbv"),
        ),
        ({"p_CT.nii.gz": "ct", "p_SUV.nii.gz": "pet", "p_pet.nii.gz": "pet"}, task("ct", "pet", pet=["suv"])),
        ({"p_FLAIR.nii": "flair", "p_PD.nii": "pd", "p_T1.nii": "t1", "p_T1_gd.nii": None}, task("flair", "t1", "pd")),
        (
            {
                "p_ep2d_diff_ADC.nii.gz": "adc",
                "p_ADC_map.nii.gz": "adc",
                "p_dwi_b1400.nii.gz": "hbv",
                "p_dwi.nii.gz": None,
                "p_t2_map.nii.gz": None,
                "p_adc_mask.nii.gz": None,
            },
            task("t2", "adc", "hbv", hbv=["b1400"]),
        ),
        ({"x_SWI.nii.gz": "swi", "x_T2star.nii.gz": "t2star", "x_T2.nii.gz": None}, task("swi", "t2star")),
    ],
    ids=["prostate", "ct and pet", "multiple sclerosis", "diffusion by its scanner's words", "susceptibility"],
)
def test_what_a_task_asks_for_is_not_held_against_a_file(names, own):
    assert {name: read_name(name, own).role for name in names} == names


@pytest.mark.parametrize(
    ("name", "patient"),
    [
        ("BraTS20_Training_001_t1ce.nii.gz", "BraTS20_Training_001"),
        ("BraTS-GLI-00000-000-t2f.nii.gz", "BraTS-GLI-00000-000"),
        ("UPENN-GBM-00001_11_automated_approx_segm.nii.gz", "UPENN-GBM-00001_11"),
        ("UCSF-PDGM-0004_tumor_segmentation.nii.gz", "UCSF-PDGM-0004"),
        ("sub-01_ses-02_ce-gadolinium_T1w.nii.gz", "sub-01_ses-02"),
        ("PatientID_0003_Timepoint_1_brain_t1c.nii.gz", "PatientID_0003_Timepoint_1"),
        ("site_C_T1.nii.gz", "site_C"),
        ("flair_to_t1.nii.gz", ""),
        ("Anna B_AX T1 POST GAD.nii.gz", "Anna B"),
        ("AX_T2_TSE.nii.gz", ""),
        ("patient01_flair.nii.gz", "patient01"),
        ("Subject7_T1.nii.gz", "Subject7"),
        ("MRI12_T1.nii.gz", "MRI12"),
        ("sub01_T1w.nii.gz", "sub01"),
        ("P2_t1ce.nii.gz", "P2"),
        ("proband_3_T2.nii.gz", "proband_3"),
        ("PET01_T1.nii.gz", "PET01"),
        ("İBRAHIM_flair.nii.gz", "İBRAHIM"),
        ("mni152_T1.nii.gz", ""),
        ("ct1_brain.nii.gz", ""),
        ("ses-01_T1w.nii.gz", "ses-01"),
    ],
)
def test_what_stands_before_the_sequence_is_the_patient(name, patient):
    assert read_name(name, BRATS).patient == patient


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("T1_charite.nii.gz", ("charite",)),
        ("FLAIR_smith_042_v2.nii.gz", ("smith",)),
        ("anna_T1.nii.gz", ()),
        ("T1_anna.nii.gz", ()),
        ("AX T1 3mm TE_12 se003 320x320", ()),
        ("anna_T1w_acpc_dc_restore_brain.nii.gz", ()),
        ("sub-01_acq-siteb_T1w.nii.gz", ()),
    ],
)
def test_a_word_after_the_sequence_that_nobody_knows_is_told(name, words):
    assert unknown_words(name, BRATS, "anna") == words


def test_what_is_read_in_spite_of_unknown_words_is_one_line():
    read = [(f"{k}_T1_charite.nii.gz", "t1", ("charite",)) for k in range(3)] + [("x_T2.nii.gz", "t2", ())]
    assert "0_T1_charite.nii.gz as t1 and 2 more (not known: 'charite')" in doubtful_names(read)
    assert doubtful_names(read[3:]) == ""


def test_of_the_names_of_public_data_sets_nearly_every_word_is_known():
    said = {row["name"]: read_name(row["name"], BRATS) for row in NAMES}
    images = {name: one.patient for name, one in said.items() if one.role not in (None, LABEL)}
    doubtful = {name for name, patient in images.items() if unknown_words(name, BRATS, patient)}
    assert doubtful == {"flair-anna.nii.gz", "FLAIR_LR", "T1_charite.nii.gz", "FLAIR_smith.nii.gz"}


@pytest.mark.parametrize("folder", ["post", "CE", "t2study", "gd 7", "mask_trial"])
@pytest.mark.parametrize(("rest", "role"), [("_T1.nii.gz", "t1"), ("-FLAIR.nii.gz", "flair"), ("_T1c.nii.gz", "t1c")])
def test_the_name_of_the_folder_says_nothing_of_the_sequence(folder, rest, role):
    assert read_name(folder + rest, BRATS, folder).role == role


@pytest.mark.parametrize(
    ("description", "role"),
    [("AX T1 SE", "t1c"), ("AX T1 pre", "t1"), ("AX T2", "t2"), ("AX FLAIR", "flair"), ("AX DWI", None)],
)
def test_a_contrast_agent_in_the_header_makes_a_t1_a_t1c_unless_its_name_says_no(description, role):
    assert read_description(description, BRATS, contrast_agent=True)[0] == role


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("T2_map.nii.gz", "a map (map)"),
        ("x_adc.nii.gz", "a diffusion image (adc)"),
        ("t1_t2.nii.gz", "named after several sequences (t1, t2)"),
        ("scan7.nii.gz", "of a sequence that its name does not tell"),
        ("sub-01_PDw.nii.gz", "a PD, which brats_mri does not use"),
    ],
)
def test_why_a_file_is_not_used(name, why):
    assert read_name(name, BRATS).why == why
