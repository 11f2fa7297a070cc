"""Networks that see slices of files that hold volumes."""

import pytest
import torch
from monai.data import MetaTensor

from monai_passion.data.slices import slices_of, whole_files
from monai_passion.errors import InputError
from monai_passion.evaluation import CombinationScores
from monai_passion.inferers import sliding_window
from monai_passion.networks import RFNet
from monai_passion.transforms import MiddleOfSlicesd, TakeSliced


def test_takes_the_slice_of_the_item_from_image_and_label():
    volume = torch.rand(2, 4, 5, 3)
    item = {"image": MetaTensor(volume), "label": volume[:1], "slice": 2}
    taken = TakeSliced(["image", "label"])(item)
    assert torch.equal(taken["image"].as_tensor(), volume[..., 2])
    assert torch.equal(taken["label"].as_tensor(), volume[:1, ..., 2])


def test_a_slice_that_is_not_there_is_named():
    with pytest.raises(InputError, match=r"c7 has 3 slices, none with the number -1"):
        TakeSliced("image")({"image": torch.zeros(1, 2, 2, 3), "slice": -1, "case": "c7"})


def test_slices_of_whole_files_and_back(tmp_path, monkeypatch):
    monkeypatch.setattr("monai_passion.data.slices.read_header", lambda path, num_volumes: torch.empty(4, 4, 3))
    files = [{"case": c, "patient": c, "image": {"lge": f"{c}.nii", "t2": None}} for c in ("a", "b")]
    slices = slices_of(files)
    assert [item["case"] for item in slices] == [f"{c}_slice_{k}" for c in "ab" for k in range(3)]
    assert slices_of(slices) == slices
    assert whole_files(slices) == files == whole_files(files)


def test_a_volume_is_inferred_slice_by_slice_and_comes_back_whole():
    network = RFNet(2, 3, spatial_dims=2, width=2).eval()
    volume, available = torch.rand(1, 2, 16, 16, 3), torch.tensor([[True, False]])
    with torch.no_grad():
        result = sliding_window([16, 16])(volume, network, available=available)
        slices = [network(volume[..., k], available).softmax(dim=1) for k in range(3)]
    torch.testing.assert_close(result, torch.stack(slices, dim=-1))


def test_per_slice_dice_is_the_mean_over_slices_not_over_the_volume():
    label = torch.zeros(1, 1, 4, 4, 2)
    label[..., :2, 0] = 1  # eight pixels in one slice, all found; two in the other, none found
    label[0, 0, 0, :2, 1] = 1
    found = label[0].clone()
    found[..., 1] = 0
    probability = torch.cat([1 - found, found])
    engine = type("E", (), {"state": type("S", (), {"output": {"pred": [probability] * 1, "label": label[0][None]}})})
    engine.state.batch = {"case": ["c"], "patient": ["p"]}
    engine.state.output["pred"] = torch.cat([probability] * 3)[None]
    scores = CombinationScores(["lge", "t2"], {"r": [1]}, per_slice=True)
    scores.iteration_completed(engine)
    assert scores.compute() == pytest.approx(0.5)
    assert {row["case"] for row in scores.rows} == {"c_0", "c_1"}


@pytest.mark.parametrize(("at", "told"), [(4, False), (0, True)])
def test_a_label_that_the_middle_of_the_slices_cuts_off_is_told(at, told, caplog):
    label = torch.zeros(1, 8, 8, 2)
    label[0, 4, 4], label[0, at, 4] = 1, 1
    item = {"image": torch.rand(2, 8, 8, 2), "label": label, "case": "c7"}
    middle = MiddleOfSlicesd(["image", "label"], spatial_size=[4, 4, -1], allow_missing_keys=True)
    assert middle(item)["label"].shape == (1, 4, 4, 2)
    assert ("c7: 50.0 % of its label lie outside the middle" in caplog.text) == told
    assert middle({"image": item["image"]})["image"].shape == (2, 4, 4, 2)
