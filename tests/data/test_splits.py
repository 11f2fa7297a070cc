import pytest

from monai_passion.data.splits import SPLITS, doubtful_patients, patient_of, random_split, repeated
from monai_passion.errors import InputError, UsageError

SAME = {
    "BIDS": ["sub-01_ses-1", "sub-01_ses-2", "sub-01"],
    "UPENN-GBM": ["UPENN-GBM-00001_11", "UPENN-GBM-00001_21"],
    "BraTS 2023": ["BraTS-GLI-00005-000", "BraTS-GLI-00005-001", "BraTS-GLI-00005-100"],
    "LUMIERE": ["Patient-001_week-000-1", "Patient-001_week-044"],
    "MU-Glioma-Post": ["PatientID_0003_Timepoint_1", "PatientID_0003_Timepoint_2"],
    "RHUH-GBM": ["RHUH-0001_0", "RHUH-0001_2"],
    "a number and a time": ["0123-000", "0123-001"],
    "dates": ["P7_2019-01-01", "P7_20200301"],
    "words": ["anna_baseline", "anna_followup2", "anna_visit_3", "anna-tp1", "anna_post_op"],
    "PI-CAI": ["10000_1000000", "10000_1000001"],
    "letters and numbers": ["P01_T0", "P01_T1", "P01-V2", "P01_E3", "P01_d0", "P01_MR2"],
    "OASIS": ["OAS30001_MR_d0129", "OAS30001_MR_d0757"],
    "months": ["P01_0m", "P01_12m", "P01_6mo", "P01_y2"],
    "UCSF-PDGM": ["UCSF-PDGM-0431", "UCSF-PDGM-0431_FU001d", "UCSF-PDGM-0431_nifti", "UCSF-PDGM-0431_FU003d_nifti"],
    "around surgery": ["ReMIND-001_Preop", "ReMIND-001_Intraop", "ReMIND-001_postop"],
    "courses": ["P7_diagnosis", "P7_recurrence", "P7_recurrence2", "P7_progression"],
    "cubes": ["BraTS20_Training_003_L003", "BraTS20_Training_003_L004"],
}
APART = {
    "BraTS 2020": ["BraTS20_Training_001", "BraTS20_Training_002"],
    "BraTS 2018": ["Brats18_2013_10_1", "Brats18_2013_11_1", "Brats18_CBICA_AAB_1", "Brats18_TCIA01_131_1"],
    "BraTS 2021": ["BraTS2021_00000", "BraTS2021_00002"],
    "BraTS 2013": ["brats_2013_pat0001_1", "brats_2013_pat0002_1"],
    "MyoPS": ["myops_training_101", "myops_training_102"],
    "UCSF-PDGM": ["UCSF-PDGM-0004", "UCSF-PDGM-0005"],
    "TCGA": ["TCGA-02-0006", "TCGA-02-0009", "TCGA-DU-7294"],
    "BIDS": ["sub-01_ses-1", "sub-02_ses-1"],
    "sites": ["site1_001", "site1_002"],
    "volunteers": ["control_V01", "control_V02", "HC_E1", "HC_E2"],
    "plain": ["P00", "P01", "anna", "anneliese", "patient07"],
    "phantoms": ["phantom_000", "phantom_001"],
}


@pytest.mark.parametrize("scheme", SAME)
def test_examinations_of_a_patient_are_of_one(scheme):
    assert len({patient_of(case) for case in SAME[scheme]}) == 1


@pytest.mark.parametrize("scheme", APART)
def test_patients_stay_apart(scheme):
    assert len({patient_of(case) for case in APART[scheme]}) == len(APART[scheme])


@pytest.mark.parametrize("scheme", SAME)
def test_no_patient_is_in_two_splits(scheme):
    first = patient_of(SAME[scheme][0])
    items = [{"case": name, "patient": patient_of(name)} for k in range(9) for name in (f"{c}" for c in SAME[scheme])]
    items += [{"case": f"other{k}x", "patient": f"other{k}x"} for k in range(9)]
    for seed in range(5):
        chosen = random_split(items, (0.4, 0.3, 0.3), seed)
        assert sum(any(item["patient"] == first for item in chosen[split]) for split in SPLITS) == 1


def test_a_pattern_takes_precedence_over_the_schemes():
    assert patient_of("ab12-cd_3", r"([a-z]+)\d") == "ab"


@pytest.mark.parametrize(
    ("pattern", "part"), [("x+", "first group"), ("(", "not a regular expression"), ("(z)", "finds no patient")]
)
def test_a_pattern_that_finds_nothing_is_an_error_that_says_how(pattern, part):
    with pytest.raises(UsageError, match=part):
        patient_of("xab", pattern)


def test_beginnings_that_repeat_are_noticed_and_numbered_patients_are_not():
    assert repeated(["A_1", "A_2", "B_1", "B_2", "C_1", "C_3"]) == {"A": 2, "B": 2, "C": 2}
    assert repeated([f"BraTS20_Training_{k:03d}" for k in range(40)]) == {}
    assert repeated(SAME["UPENN-GBM"] + SAME["BIDS"]) == {}


def test_a_site_s_number_may_be_taken_for_a_patient_s_which_is_told():
    trial = [f"{site}-{patient:03d}" for site in (101, 102) for patient in (1, 2, 3, 4)]
    doubt = doubtful_patients(trial)
    assert "101-001, 101-002, 101-003, ... are taken for examinations of one patient, 101 (of 8 cases" in doubt
    assert "'(.+)'" in doubt
    assert patient_of("101-001", "(.+)") == "101-001"
    for known in ("UPENN-GBM", "RHUH-GBM", "BIDS", "BraTS 2023", "OASIS"):
        assert doubtful_patients(SAME[known]) == ""
    assert doubtful_patients(["A_1", "A_2", "B_1", "B_2"]).startswith("4 cases share the beginning")
    with pytest.raises(InputError, match=r"2 patients cannot be split into 3 parts \(of 8 cases; .*--patient-pattern"):
        random_split([{"case": case, "patient": patient_of(case)} for case in trial], (0.7, 0.1, 0.2), 0)


def test_everyone_may_be_for_the_test():
    items = [{"case": str(k), "patient": str(k)} for k in range(5)]
    assert [len(random_split(items, (0, 0, 1), 0)[split]) for split in SPLITS] == [0, 0, 5]


def test_one_patient_cannot_be_split():
    with pytest.raises(InputError, match="1 patient cannot be split into 3 parts; make a datalist with"):
        random_split([{"case": "a", "patient": "a"}], (0.7, 0.1, 0.2), 0)
