import json

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor

from monai_passion.errors import WeightsError
from monai_passion.evaluation import CombinationScores
from monai_passion.evaluation.combinations import label_maps, region_dice
from monai_passion.evaluation.summary import read_metrics
from monai_passion.modalities import combinations
from monai_passion.reporting.examples import read_example

REGIONS = {"all": (1, 2), "core": (2,)}
MODALITIES = ("a", "b")


def one_hot(labels, classes=3):
    return torch.nn.functional.one_hot(labels, classes).movedim(-1, 0).float()


@pytest.fixture
def truth():
    labels = torch.zeros(6, 6, 6, dtype=torch.long)
    labels[1:5, 1:5, 1:5] = 1
    labels[2:4, 2:4, 2:4] = 2
    return labels


def evaluate(metric, predictions, truth, meta=None, available=None):
    """One patient; ``predictions``: a label map or None (the combination cannot be had) per combination."""
    maps = [one_hot(p) if p is not None else torch.full((3, 6, 6, 6), torch.nan) for p in predictions]
    label = MetaTensor(truth[None, None].float(), affine=torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0])), meta=meta)
    batch = {"case": ["case1"], "patient": ["patient1"], "image": torch.rand(1, 2, 6, 6, 6)}
    if available is not None:
        batch["available"] = torch.tensor([available])
    engine = Engine(lambda engine, batch: {"pred": torch.cat(maps)[None], "label": label})
    metric.attach(engine, "mean_dice")
    return engine.run([batch])


def test_label_maps_and_what_cannot_be_had(truth):
    labels = label_maps(torch.cat([one_hot(truth), torch.full((3, 6, 6, 6), torch.nan)]), 2)
    assert torch.equal(labels[0].to(truth.dtype), truth)
    assert (labels[1] == -1).all()


def test_a_network_that_gives_nan_somewhere_is_not_scored(truth):
    broken = one_hot(truth)
    broken[:, 3, 3, 3] = torch.nan
    with pytest.raises(WeightsError, match="not numbers"):
        label_maps(broken, 1)


def test_dice_of_regions(truth):
    wrong = truth.clone()
    wrong[truth == 2] = 1
    assert region_dice(wrong, truth, REGIONS) == [1.0, 0.0]
    assert region_dice(truth * 0, truth * 0, REGIONS) == [1.0, 1.0]


def test_the_mean_is_over_patients_combinations_and_regions(truth):
    empty = truth * 0
    state = evaluate(CombinationScores(MODALITIES, REGIONS, dice_only=True), [truth, empty, truth], truth)
    assert state.metrics["mean_dice"] == pytest.approx(4 / 6)


def test_a_combination_that_the_patient_lacks_is_not_scored(truth, tmp_path):
    state = evaluate(CombinationScores(MODALITIES, REGIONS, tmp_path), [truth, None, None], truth)
    assert state.metrics["mean_dice"] == 1.0
    assert set(read_metrics(tmp_path / "metrics.csv")["combination"]) == {"a"}


def test_a_combination_that_the_patient_has_and_the_network_gives_nan_for_is_told(truth, tmp_path):
    maps = [truth, None, None]
    evaluate(CombinationScores(MODALITIES, REGIONS, tmp_path), maps, truth, available=[True, False])
    with pytest.raises(WeightsError, match="not numbers"):
        evaluate(CombinationScores(MODALITIES, REGIONS, tmp_path), maps, truth, available=[True, True])
    validation = CombinationScores(MODALITIES, REGIONS, dice_only=True)
    assert evaluate(validation, maps, truth, available=[True, True]).metrics["mean_dice"] == pytest.approx(1 / 3)


def test_files_hold_every_combination_region_and_convention(truth, tmp_path):
    evaluate(CombinationScores(MODALITIES, REGIONS, tmp_path), [truth, truth, truth], truth)
    rows = read_metrics(tmp_path / "metrics.csv")
    assert list(rows["combination"].unique()) == ["+".join(c) for c in combinations(MODALITIES)]
    assert len(rows) == 3 * 2 * 2
    assert rows["reference_ml"].iloc[0] == pytest.approx(64 * 8 / 1000)
    assert (rows["ece"] == 0).all()  # of these predictions all are certain and right
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert {row["n"] for row in summary["results"]} == {1}


def test_the_example_is_the_slice_with_the_most_labels_of_the_first_patient(truth, tmp_path):
    truth[..., 2] = 1
    evaluate(CombinationScores(MODALITIES, REGIONS, tmp_path, example=True), [truth, None, truth * 0], truth)
    example = read_example(tmp_path / "example.npz")
    assert example.image.shape == (2, 6, 6)
    assert (example.label == 1).all()
    assert [set(p.flatten().tolist()) for p in example.prediction] == [{1}, {-1}, {0}]
    assert example.combinations == ("a", "b", "a+b")
    assert np.array_equal(example.affine, np.diag([2, 2, 2, 1]))


def test_no_voxels_are_kept_unless_asked_for(truth, tmp_path):
    evaluate(CombinationScores(MODALITIES, REGIONS, tmp_path), [truth, truth, truth], truth)
    assert not (tmp_path / "example.npz").exists()


@pytest.mark.parametrize("per_slice", [False, True])
def test_a_missed_region_costs_the_diagonal_of_the_file_whatever_was_cut_off(truth, tmp_path, per_slice):
    empty = torch.zeros_like(truth)
    affine = torch.diag(torch.tensor([2.0, 1.0, 3.0, 1.0]))
    file = {"spatial_shape": torch.tensor([[10, 12, 30]]), "original_affine": affine[None]}
    for meta, edges in ((None, [12, 12, 12]), (file, [20, 12, 90])):  # without, the image is all there is
        scores = CombinationScores(MODALITIES, REGIONS, tmp_path, per_slice=per_slice)
        evaluate(scores, [empty, empty, truth], truth, meta)
        (worst,) = {row["hd95"] for row in scores.rows if row["convention"] == "challenge" and row["dice"] == 0}
        assert worst == pytest.approx(np.linalg.norm(edges[: 2 if per_slice else 3]))


def test_slices_of_two_examinations_of_a_patient_are_cases_of_their_own(truth, tmp_path):
    scores = CombinationScores(MODALITIES, REGIONS, tmp_path, per_slice=True)
    evaluate(scores, [truth] * 3, truth)
    assert {row["case"] for row in scores.rows} == {f"case1_{k}" for k in range(6)}
    assert {row["patient"] for row in scores.rows} == {"patient1"}
