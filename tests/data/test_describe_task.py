import json

import nibabel as nib
import numpy as np
import pytest

from monai_passion.data.describe_task import describe_task
from monai_passion.errors import InputError, UsageError


@pytest.mark.parametrize(("folder", "name"), [("2024_MS", "task_2024_ms"), ("数据", "task"), ("My data", "my_data")])
def test_a_folder_of_any_name_makes_a_task_of_a_name_that_a_bundle_takes(tmp_path, folder, name):
    (tmp_path / folder).mkdir()
    for m in ("flair", "pd"):
        nib.save(nib.Nifti1Image(np.ones((20, 20, 20), np.float32), np.eye(4)), tmp_path / folder / f"p1_{m}.nii.gz")
    assert describe_task(tmp_path / folder, ["flair", "pd"], ["lesion=1"]).name == name
    with pytest.raises(UsageError, match="'lesion' twice"):
        describe_task(tmp_path / folder, ["flair", "pd"], ["lesion=1", "lesion=2"])


@pytest.mark.parametrize("codes", ["RAS", "PIR", "LPS", "SAL"])
@pytest.mark.parametrize("dims", [2, 3])
def test_sizes_and_spacing_are_along_the_axes_that_the_network_sees(tmp_path, codes, dims):
    """Volumes of 20 x 40 x 30 voxels of 5 x 0.5 x 2 mm to the right, front and top, stored in any order."""
    image = nib.Nifti1Image(np.ones((20, 40, 30), np.float32), np.diag([5.0, 0.5, 2.0, 1.0]))
    order = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(tuple(codes))
    )
    for m in ("flair", "pd"):
        (tmp_path / "p1").mkdir(exist_ok=True)
        nib.save(image.as_reoriented(order), tmp_path / "p1" / f"p1_{m}.nii.gz")
    settings = describe_task(tmp_path, ["flair", "pd"], ["lesion=1"], spatial_dims=dims).settings
    stored = nib.load(tmp_path / "p1" / "p1_pd.nii.gz").shape
    if dims == 3:
        assert settings["spacing"] == [5.0, 0.5, 2.0]
        assert settings["crop_size"] == [32, 48, 32]
    else:
        assert settings["crop_size"] == [max(32, -(-size // 16) * 16) for size in stored[:2]]


ODD = {
    "channels without numbers": ({"channel_names": {"a": "T1"}, "labels": {"lesion": 1}}, '"0": "FLAIR"'),
    "a list of channels": ({"channel_names": ["T1", "T2"], "labels": {"lesion": 1}}, '"0": "FLAIR"'),
    "a channel without a name": ({"modality": {"0": None}, "labels": {"1": "lesion"}}, '"0": "FLAIR"'),
    "a label in words": ({"channel_names": {"0": "T1"}, "labels": {"lesion": "one"}}, "value 'one'"),
    "a label without a value": ({"channel_names": {"0": "T1"}, "labels": {"lesion": None}}, "value None"),
    "no labels": ({"channel_names": {"0": "T1"}}, "no labels"),
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_dataset_json_is_named_with_what_is_odd(tmp_path, name):
    content, said = ODD[name]
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=f"dataset.json .*{said}"):
        describe_task(tmp_path / "dataset.json")
