import nibabel as nib
import numpy as np
import pytest

from monai_passion.data.datalists import make_datalist
from monai_passion.data.labels import CONVENTIONS, find_convention, label_classes, map_values, parse_convention
from monai_passion.data.training_set import prepare_datalist
from monai_passion.errors import InputError, UsageError
from monai_passion.tasks import load_task
from monai_passion.transforms import LoadModalitiesd

BRATS, MYOPS = load_task("brats_mri"), load_task("myops_cmr")
NCR, ED, ET = 1, 2, 4


def save(path, *values):
    """A label map, or an image of noise where no values are given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    data = rng.choice([0, *values], (4, 4, 4)) if values else rng.uniform(1, 9, (4, 4, 4))
    if values:
        data.flat[: len(values)] = values
    nib.save(nib.Nifti1Image(data.astype(np.float32), np.eye(4)), path)
    return path


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        ("brats2015", {1: NCR, 2: ED, 3: NCR, 4: ET}),
        ("brats2020", {1: NCR, 2: ED, 4: ET}),
        ("brats2023", {1: NCR, 2: ED, 3: ET}),
        ("msd", {1: ED, 2: NCR, 3: ET}),
        ("brats_ped2024", {1: ET, 2: NCR, 3: NCR, 4: ED}),
        ("brats2024", {1: NCR, 2: ED, 3: ET, 4: 0}),
        ("hdglio", {1: ED, 2: ET}),
        ("deepbratumia", {1: ET, 2: NCR, 3: ED}),
        ("1=ED, 2=ET", {1: ED, 2: ET}),
        ("3=edema,7=NCR/NET", {3: ED, 7: NCR}),
    ],
)
def test_a_convention_says_what_each_value_is(name, meaning):
    assert parse_convention(name, BRATS).values == {0: 0, **meaning}


@pytest.mark.parametrize("text", ["brats", "1=liver", "x=ED", "1=ED,2"])
def test_an_unknown_convention_is_an_error_that_lists_them(text):
    with pytest.raises(UsageError, match=r"brats2020|NCR/NET"):
        parse_convention(text, BRATS)


@pytest.mark.parametrize(
    ("case", "convention"),
    [
        ("BraTS20_Training_001", "brats2020"),
        ("BraTS2021_00000", "brats2020"),
        ("UPENN-GBM-00001_11", "brats2020"),
        ("UCSF-PDGM-0004", "brats2020"),
        ("BraTS-GLI-00000-000", "brats2023"),
        ("BraTS-SSA-00002-000", "brats2023"),
        ("brats_2013_pat0001_1", "brats2015"),
        ("BraTS19_CBICA_AQQ_1", "brats2020"),
        ("BraTS-GLI-02062-100", "brats2024"),
        ("BraTS-MET-00832-000", "brats2023"),
        ("PatientID_0003_Timepoint_1", "brats2024"),
    ],
)
def test_the_names_of_a_data_set_tell_its_convention(case, convention):
    assert find_convention(BRATS, [case], []).name == convention


@pytest.mark.parametrize(
    ("path", "convention"),
    [
        ("week-000-1/DeepBraTumIA-segmentation/atlas/segmentation/seg_mask.nii.gz", "deepbratumia"),
        ("week-000-1/HD-GLIO-AUTO-segmentation/registered/segmentation.nii.gz", "hdglio"),
        ("hdglio/sub-01_seg.nii.gz", "hdglio"),
    ],
)
def test_the_folder_of_a_label_map_tells_its_convention(tmp_path, path, convention):
    assert find_convention(BRATS, ["Patient-001_week-000-1"], [tmp_path / path]).name == convention


@pytest.mark.parametrize("values", [(1, 2, 4), (1, 2), (4,)])
def test_pediatric_cases_are_asked_about_whatever_their_values(tmp_path, values):
    with pytest.raises(InputError, match="--labels brats2023 or brats_ped2024"):
        find_convention(BRATS, ["BraTS-PED-00002-000"], [save(tmp_path / "a.nii.gz", *values)])


@pytest.mark.parametrize(("case", "values"), [("x", (1,)), ("x", (1, 2)), ("BraTS-MEN-RT-0001-1", (1,)), ("x", (2,))])
def test_values_too_few_to_tell_what_they_mean_are_a_doubt(tmp_path, case, values):
    found = find_convention(BRATS, [case], [save(tmp_path / "a.nii.gz", *values)])
    assert "say so by --labels" in found.doubt
    assert not find_convention(BRATS, [case], [save(tmp_path / "b.nii.gz", 1, 2, 4)]).doubt


NAMED = {
    "Decathlon": (
        {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"},
        (ED, NCR, ET),
    ),
    "nnU-Net": ({"background": 0, "necrotic_core": 1, "enhancing_tumor": 2, "edema": 3}, (NCR, ET, ED)),
    "words of BraTS 2024": ({"background": 0, "NETC": 1, "SNFH": 2, "ET": 3, "RC": 4}, (NCR, ED, ET, 0)),
    "long words": (
        {
            "background": 0,
            "necrotic and non-enhancing tumor core": 1,
            "surrounding non-enhancing FLAIR hyperintensity": 2,
            "GD-enhancing tumor": 3,
            "resection cavity": 4,
        },
        (NCR, ED, ET, 0),
    ),
    "children": ({"background": 0, "ET": 1, "NET": 2, "CC": 3, "ED": 4}, (ET, NCR, NCR, ED)),
    "regions": (
        {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": 3},
        (ED, NCR, ET),
    ),
    "regions, short": ({"background": 0, "WT": [1, 2, 3], "TC": [1, 3], "ET": [3]}, (NCR, ED, ET)),
}


@pytest.mark.parametrize("name", NAMED)
def test_the_labels_of_a_dataset_json_are_known_by_their_names_or_regions(name):
    labels, meant = NAMED[name]
    values = find_convention(BRATS, ["x"], [], None, label_classes(labels, BRATS)).values
    assert values == {0: 0, **dict(enumerate(meant, 1))}


@pytest.mark.parametrize(
    "labels",
    [{"background": 0, "whole tumor": 1}, {"background": 0, "lesion": 1}, {"0": "background", "1": "tumor core"}],
)
def test_a_name_of_several_classes_is_asked_about(labels):
    with pytest.raises(InputError, match="say what each is, as --labels"):
        find_convention(BRATS, ["x"], [], None, label_classes(labels, BRATS))


def test_the_names_in_dataset_json_tell_what_the_values_are():
    names = {0: "background", 1: "edema", 2: "non-enhancing tumor", 3: "enhancing tumour"}
    assert find_convention(BRATS, ["x"], [], None, names).values == {0: 0, 1: ED, 2: NCR, 3: ET}
    with pytest.raises(InputError, match=r"the label 1 \(liver\)"):
        find_convention(BRATS, ["x"], [], None, {0: "background", 1: "liver"})


def test_a_3_without_further_facts_is_asked_about_and_a_4_is_not(tmp_path):
    plain, three = save(tmp_path / "a.nii.gz", 1, 2), save(tmp_path / "b.nii.gz", 1, 2, 3)
    four = save(tmp_path / "c.nii.gz", 1, 2, 4)
    assert find_convention(BRATS, ["x"], [plain, four]).values == {0: 0, 1: 1, 2: 2, 4: 4}
    with pytest.raises(InputError, match=r"b.nii.gz has the label 3.*--labels brats2015 or brats2023.*or msd"):
        find_convention(BRATS, ["x"], [plain, three])
    assert find_convention(BRATS, ["x"], [plain, three], "msd").name == "msd"


def test_a_task_of_its_own_has_the_values_that_it_states():
    assert find_convention(MYOPS, ["x"], []).values == {v: v for v in MYOPS.label_values}


@pytest.mark.parametrize("values", [(1, 2, 3, 4), (7,), (255,), (-1,), (1, 2, 3), (1000,)])
def test_a_value_that_the_convention_lacks_is_refused_with_the_files_name(tmp_path, values):
    path = save(tmp_path / "who_seg.nii.gz", *values)
    data = nib.load(path).get_fdata(dtype=np.float32)
    with pytest.raises(InputError, match=r"who_seg.nii.gz has the label.*where 0, 1, 2, 4 are expected"):
        map_values(data, parse_convention("brats2020", BRATS).values, path)


def test_every_voxel_gets_the_value_of_the_task(tmp_path):
    data = np.array([[0, 1, 2, 3, 1, 3]], np.float32)
    assert map_values(data, parse_convention("msd", BRATS).values, tmp_path).tolist() == [[0, ED, NCR, ET, ED, ET]]


def cohort(folder, *values):
    for k in range(4):
        save(folder / f"P{k}" / f"P{k}_flair.nii.gz")
        save(folder / f"P{k}" / f"P{k}_seg.nii.gz", *values)
    return folder


@pytest.mark.parametrize("split", ["training", "validation", "test"])
def test_training_and_evaluation_see_the_same_tissue_whatever_the_convention(tmp_path, split):
    options = {"fractions": (0.5, 0.25, 0.25)}
    loaded = {}
    for labels, values in (("brats2020", (1, 2, 4)), ("msd", (2, 1, 3)), ("brats2023", (1, 2, 3))):
        folder = cohort(tmp_path / labels, *values)
        item = prepare_datalist(folder, labels=labels, **options)[split][0]
        loaded[labels] = LoadModalitiesd(BRATS.modality_names)(item)["label"].flatten()[:3].tolist()
    assert set(map(tuple, loaded.values())) == {(1, 2, 4)}


def test_the_convention_stands_in_the_datalist_and_a_stranger_value_stops_the_loading(tmp_path):
    folder = cohort(tmp_path / "d", 1, 2, 4)
    datalist = make_datalist(folder, fractions=(1, 0, 0))
    assert datalist["labels"] == {"convention": "brats_mri", "values": {"0": 0, "1": 1, "2": 2, "4": 4}}
    save(folder / "P2" / "P2_seg.nii.gz", 1, 7)
    items = prepare_datalist(folder, fractions=(1, 0, 0))["training"]
    with pytest.raises(InputError, match=r"P2_seg.nii.gz has the label 7"):
        LoadModalitiesd(BRATS.modality_names)(items[2])


def test_every_convention_is_of_classes_that_the_task_has():
    assert all(parse_convention(name, BRATS).values for name in CONVENTIONS)
