import json
from collections import Counter

import pytest

from monai_passion.data.datalists import labeled_items, load_datalist, make_datalist, write_datalist
from monai_passion.data.splits import SPLITS
from monai_passion.data.verify import verify_cohort
from monai_passion.errors import InputError, UsageError
from tests.data.layouts import BRATS_FILES, touch, write_image
from tests.helpers.tasks import BRATS_MRI


def items(datalist):
    return [item for split in SPLITS for item in datalist[split]]


def test_brats_folders(brats):
    (brats / "P03" / "P03_t2.nii.gz").unlink()
    touch(brats / "P03" / "P03_brainmask.nii.gz")
    datalist = make_datalist(brats)
    assert (datalist["task"], datalist["modalities"]) == ("brats_mri", list(BRATS_MRI))
    found = {item["case"]: item for item in items(datalist)}
    assert len(found) == 20
    assert found["P04"]["image"] == {m: f"P04/P04_{BRATS_FILES[m]}.nii.gz" for m in BRATS_MRI}
    assert found["P04"]["label"] == "P04/P04_seg.nii.gz"
    assert found["P03"]["image"]["t2"] is None
    assert found["P03"]["image"]["t1"] is not None


def test_the_label_of_brats2020_that_has_another_name(brats):
    (brats / "P05" / "P05_seg.nii.gz").rename(brats / "P05" / "W39_1998.09.19_Segm.nii")
    found = {item["case"]: item for item in items(make_datalist(brats))}
    assert len(found) == 20
    assert found["P05"]["label"] == "P05/W39_1998.09.19_Segm.nii"


def test_grades_of_name_mapping_are_the_groups(brats):
    (brats / "name_mapping.csv").write_text("Grade,BraTS_2020_subject_ID\nHGG,P00\nLGG,P01\n")
    groups = {item["case"]: item["group"] for item in items(make_datalist(brats))}
    assert (groups["P00"], groups["P01"], groups["P02"]) == ("HGG", "LGG", "unknown")


def test_flat_folders_of_the_challenge(tmp_path):
    for name in ("C0", "LGE", "T2"):
        touch(tmp_path / "train25" / f"myops_training_101_{name}.nii.gz")
    touch(tmp_path / "train25_gd" / "myops_training_101_gd.nii.gz")
    datalist = make_datalist(tmp_path, fractions=(1, 0, 0))
    assert datalist["task"] == "myops_cmr"
    (item,) = datalist["training"]
    assert item["case"] == "myops_training_101"
    assert item["image"]["bssfp"] == "train25/myops_training_101_C0.nii.gz"
    assert item["label"] == "train25_gd/myops_training_101_gd.nii.gz"


def test_slices_are_items_and_stay_with_their_patient(myops):
    datalist = make_datalist(myops, slices=True)
    assert Counter(item["patient"] for item in items(datalist)) == {f"m_{n}": 2 + n for n in range(5)}
    assert {item["case"]: item["slice"] for item in items(datalist)}["m_2_slice_3"] == 3
    homes = {(item["patient"], split) for split in SPLITS for item in datalist[split]}
    assert len(homes) == 5


def test_decathlon(tmp_path):
    write_image(tmp_path / "imagesTr" / "BRATS_001.nii.gz", (4, 4, 3, 4))
    index = {
        "modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
        "training": [{"image": "./imagesTr/BRATS_001.nii.gz", "label": "./labelsTr/BRATS_001.nii.gz"}],
    }
    (tmp_path / "dataset.json").write_text(json.dumps(index))
    datalist = make_datalist(tmp_path, fractions=(1, 0, 0), slices=True)
    assert [item["slice"] for item in datalist["training"]] == [0, 1, 2]
    item = datalist["training"][0]
    assert item["channels"] == ["flair", "t1", "t1c", "t2"]
    assert set(item["image"].values()) == {"imagesTr/BRATS_001.nii.gz"}
    assert item["label"] == "labelsTr/BRATS_001.nii.gz"


def test_cubes_belong_to_patients_and_padded_ones_stay_out(tmp_path):
    rows = ["case,patient,split,valid_voxels"]
    for case, voxels in (("A_L001", 32768), ("A_L002", 32768), ("B_L003", 31744), ("C_L004", 32768)):
        touch(tmp_path / case / f"{case}_flair.nii.gz")
        rows.append(f"{case},{case[0]},train,{voxels}")
    (tmp_path / "index.csv").write_text("\n".join(rows))
    datalist = make_datalist(tmp_path, fractions=(0.5, 0, 0.5))
    assert {item["case"]: item["patient"] for item in items(datalist)} == {"A_L001": "A", "A_L002": "A", "C_L004": "C"}
    assert len(items(make_datalist(tmp_path, fractions=(1, 0, 0), full_only=False))) == 4


@pytest.mark.parametrize(("fractions", "counts"), [((0.7, 0.1, 0.2), [14, 2, 4]), ((0.97, 0.02, 0.01), [18, 1, 1])])
def test_shares_of_patients(brats, fractions, counts):
    assert [len(make_datalist(brats, fractions=fractions)[split]) for split in SPLITS] == counts


def test_the_seed_decides_the_split(brats):
    assert make_datalist(brats, seed=1) == make_datalist(brats, seed=1)
    assert make_datalist(brats, seed=1) != make_datalist(brats, seed=2)


def test_published_lists(brats, tmp_path):
    (tmp_path / "train.txt").write_text("HG_P00\nLG_P01\nHG_elsewhere\n")
    (tmp_path / "val.txt").write_text("P02\n")
    datalist = make_datalist(brats, split_dir=tmp_path)
    assert [(item["case"], item["group"]) for item in datalist["training"]] == [("P00", "HGG"), ("P01", "LGG")]
    assert [item["case"] for item in datalist["validation"]] == ["P02"]
    assert datalist["test"] == []


def test_a_patient_in_two_lists_is_an_error(brats, tmp_path):
    (tmp_path / "train.txt").write_text("P00\nP01\n")
    (tmp_path / "test.txt").write_text("HG_P01\n")
    with pytest.raises(InputError, match="P01 in training and in test"):
        make_datalist(brats, split_dir=tmp_path)


def test_two_files_for_one_modality_are_an_error_that_names_both(brats):
    touch(brats / "P00" / "P00_t1gd.nii.gz")
    with pytest.raises(InputError, match=r"P00 has two files for t1c: .*P00_t1ce.nii.gz and .*P00_t1gd.nii.gz"):
        make_datalist(brats)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"folder": "nowhere"}, InputError, "is not a folder"),
        ({"folder": "."}, InputError, "holds no patients"),
        ({"layout": "brats"}, UsageError, "unknown layout 'brats'; known are folders"),
        ({"fractions": (0.5, 0.1, 0.1)}, UsageError, "add to 1"),
        ({"split_dir": "."}, InputError, r"no train.txt"),
    ],
)
def test_wrong_requests(brats, tmp_path, change, error, match):
    (tmp_path / "empty").mkdir()
    change = {k: tmp_path / "empty" / v if k in ("folder", "split_dir") else v for k, v in change.items()}
    with pytest.raises(error, match=match):
        make_datalist(**{"folder": brats, **change})


def test_a_written_datalist_is_read(brats, tmp_path):
    datalist = make_datalist(brats)
    write_datalist(tmp_path / "d.json", datalist)
    assert load_datalist(tmp_path / "d.json") == datalist
    absolute = load_datalist(tmp_path / "d.json", root=brats)
    assert absolute["test"][0]["image"]["t1"] == str(brats / datalist["test"][0]["image"]["t1"])


def spoil(where, value):
    def edit(datalist):
        *path, last = where
        for key in path:
            datalist = datalist[key]
        if value is KeyError:
            del datalist[last]
        else:
            datalist[last] = value

    return edit


@pytest.mark.parametrize(
    "where_and_value",
    [
        (("training",), KeyError),
        (("test",), {}),
        (("modalities",), "t1"),
        (("training", 0), "P00"),
        (("training", 0, "patient"), KeyError),
        (("training", 0, "group"), None),
        (("training", 0, "image", "t1"), KeyError),
        (("training", 0, "image", "t1"), 3),
        (("training", 0, "image"), dict.fromkeys(BRATS_MRI)),
        (("training", 0, "label"), 3),
        (("training", 0, "slice"), "two"),
        (("training", 0, "case"), "P01"),
        (("training", 0, "patient"), "P19"),
    ],
)
def test_a_wrong_datalist_is_an_error_that_names_it(brats, tmp_path, where_and_value):
    datalist = make_datalist(brats, split_dir=lists(tmp_path, ["P00", "P01"], ["P19"]))
    spoil(*where_and_value)(datalist)
    (tmp_path / "d.json").write_text(json.dumps(datalist))
    with pytest.raises(InputError, match=r"d\.json"):
        load_datalist(tmp_path / "d.json")


def lists(folder, train, test):
    (folder / "train.txt").write_text("\n".join(train))
    (folder / "test.txt").write_text("\n".join(test))
    return folder


@pytest.mark.parametrize("text", [None, "", "[]", "{"])
def test_what_is_no_datalist_is_an_error(tmp_path, text):
    if text is not None:
        (tmp_path / "d.json").write_text(text)
    with pytest.raises(InputError, match=r"d\.json"):
        load_datalist(tmp_path / "d.json")


def test_the_published_slices_are_those_of_the_files(real_data):
    datalist = make_datalist(real_data / "myops2020", slices=True, split_dir=real_data / "splits" / "myops2020")
    assert [len(datalist[split]) for split in SPLITS] == [80, 0, 22]


def test_the_published_patients_of_the_cubes(real_data):
    datalist = make_datalist(
        real_data / "brats2020_cubes", full_only=False, split_dir=real_data / "splits" / "brats2020"
    )
    assert [len({item["patient"] for item in datalist[split]}) for split in SPLITS] == [218, 50, 0]
    assert [len(datalist[split]) for split in SPLITS] == [257, 63, 0]


def test_a_datalist_of_the_decathlon_or_of_monais_bundles_is_read(tmp_path):
    entries = [
        {"fold": 0, "image": [f"P{k}/P{k}_{m}.nii.gz" for m in BRATS_FILES.values() if m != "seg"]} for k in range(3)
    ]
    given = {"training": [{**entries[0], "label": "P0/P0_seg.nii.gz"}], "test": [entries[1]], "testing": [entries[2]]}
    (tmp_path / "d.json").write_text(json.dumps(given))
    datalist = load_datalist(tmp_path / "d.json", root=tmp_path)
    (item,) = datalist["training"]
    assert item["image"] == {m: str(tmp_path / "P0" / f"P0_{BRATS_FILES[m]}.nii.gz") for m in BRATS_MRI}
    assert item["label"] == str(tmp_path / "P0" / "P0_seg.nii.gz")
    assert [item["case"] for item in datalist["test"]] == ["P1", "P2"]
    assert datalist["validation"] == []


def test_a_dataset_json_given_as_datalist_has_its_channels_and_labels_in_the_order_that_it_says(tmp_path):
    given = {
        "modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
        "labels": {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"},
        "training": [{"image": "imagesTr/BRATS_001.nii.gz", "label": "labelsTr/BRATS_001.nii.gz"}],
    }
    (tmp_path / "dataset.json").write_text(json.dumps(given))
    datalist = load_datalist(tmp_path / "dataset.json")
    assert datalist["training"][0]["channels"] == ["flair", "t1", "t1c", "t2"]
    assert datalist["labels"]["values"] == {"0": 0, "1": 2, "2": 1, "3": 4}
    del given["modality"]
    (tmp_path / "dataset.json").write_text(json.dumps(given))
    with pytest.raises(InputError, match="nothing says what its channels are"):
        load_datalist(tmp_path / "dataset.json")


@pytest.mark.parametrize("images", [["a/x.nii.gz", "a/y.nii.gz"], ["a/a_t1.nii.gz", "b/b_t1.nii.gz"], 3, [3]])
def test_a_foreign_datalist_whose_paths_tell_nothing_is_an_error_that_says_where(tmp_path, images):
    (tmp_path / "d.json").write_text(json.dumps({"training": [{"image": images}]}))
    with pytest.raises(InputError, match=r"d.json: training\[0\]"):
        load_datalist(tmp_path / "d.json")


@pytest.mark.parametrize("labeled", [True, False])
def test_what_an_nnunet_data_set_tests_on_is_not_trained_on(tmp_path, labeled, caplog):
    for split, names in (("Tr", range(8)), ("Ts", range(8, 11))):
        for k in names:
            write_image(tmp_path / f"images{split}" / f"c{k}_0000.nii.gz")
            if split == "Tr" or labeled:
                write_image(tmp_path / f"c{k}_seg.nii.gz")
                (tmp_path / f"labels{split}").mkdir(exist_ok=True)
                (tmp_path / f"c{k}_seg.nii.gz").rename(tmp_path / f"labels{split}" / f"c{k}.nii.gz")
    index = {"channel_names": {"0": "FLAIR"}, "labels": {"background": 0, "NCR/NET": 1, "edema": 2, "ET": 4}}
    (tmp_path / "dataset.json").write_text(json.dumps(index))
    datalist = make_datalist(tmp_path)
    used = {split: {item["case"] for item in datalist[split]} for split in SPLITS}
    own = {"c8", "c9", "c10"}
    assert not own & (used["training"] | used["validation"])
    assert (used["test"] == own) is labeled
    assert ("3 cases that the data set tests on have no label" in caplog.text) is not labeled
    assert len(make_datalist(tmp_path, fractions=(1, 0, 0))["training"]) == 11
    assert not [p for p in verify_cohort(tmp_path, voxels=False).errors if "has no label" in p.text]


def test_a_foreign_datalist_may_name_its_files_by_any_name_of_the_modality(tmp_path):
    files = {"FLAIR": "P1/a.nii.gz", "T1ce": "P1/b.nii.gz", "t1": None}
    (tmp_path / "d.json").write_text(json.dumps({"training": [{"image": files}]}))
    (item,) = load_datalist(tmp_path / "d.json")["training"]
    assert (item["case"], item["image"]["flair"], item["image"]["t1c"]) == ("P1", "P1/a.nii.gz", "P1/b.nii.gz")
    for wrong in ({"ct": "a.nii.gz"}, {"flair": "a.nii.gz", "FLAIR": "b.nii.gz"}):
        (tmp_path / "d.json").write_text(json.dumps({"training": [{"image": wrong}]}))
        with pytest.raises(InputError, match=r"training\[0\]"):
            load_datalist(tmp_path / "d.json")


@pytest.mark.parametrize("place", ["images/", "{p}/anat/", "{p}/", ""])
def test_cases_of_a_foreign_datalist_are_named_by_their_files_or_else_their_folders(tmp_path, place, caplog):
    names = [f"sub-{k}" for k in range(3)]
    entries = [
        {"fold": k % 2, "image": [f"{place.format(p=p)}{p}_{m}.nii.gz" for m in ("FLAIR", "T1w")]}
        for k, p in enumerate(names)
    ]
    (tmp_path / "d.json").write_text(json.dumps({"training": entries}))
    assert [item["case"] for item in load_datalist(tmp_path / "d.json")["training"]] == names
    assert "folds are not used" in caplog.text


def test_the_table_of_grades_is_read_as_spreadsheets_save_it(brats):
    rows = "Grade,BraTS_2020_subject_ID\nHGG,P00\n,P01\n"
    (brats / "name_mapping.csv").write_bytes(rows.encode("utf-16"))
    groups = {item["case"]: item["group"] for item in items(make_datalist(brats))}
    assert (groups["P00"], groups["P01"]) == ("HGG", "unknown")
    (brats / "name_mapping.csv").write_text("")
    with pytest.raises(InputError, match=r"name_mapping\.csv cannot be read as a CSV"):
        make_datalist(brats)


def test_cases_without_a_label_are_told_from_the_others():
    listed = [{"case": "b"}, {"case": "a", "label": None}, {"case": "c", "label": "c.nii"}, {"case": "b", "slice": 1}]
    assert labeled_items(listed) == ([listed[2]], ["a", "b"])


def test_who_is_listed_and_not_there_is_named(brats, tmp_path, caplog):
    make_datalist(brats, split_dir=lists(tmp_path, ["P00", "p01", "P77"], ["P19"]))
    assert "names 2 of 3 that the data do not have: P77, p01" in caplog.text
    assert caplog.text.count("do not have") == 1
