"""Other programs run a bundle's inference: by a list of paths, from any folder, without a data set."""

import json
import shutil
import zipfile

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, create_workflow
from monai.data import MetaTensor
from monai.transforms import Compose

from monai_passion.bundle.steps import inference_data
from monai_passion.cli import main
from monai_passion.errors import InputError
from tests.bundles.conftest import COHORTS, QUICK, add_weights, row_of, small

BRATS = QUICK[0]


@pytest.fixture
def ready(request, bundle):
    """A small bundle with weights that nobody trained."""
    path = bundle / "configs" / "inference.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **small(row_of(bundle), "inference")}))
    add_weights(bundle)
    return bundle


@pytest.mark.parametrize("bundle", [BRATS], indirect=True)
def test_slicers_runner_segments_a_patient_from_the_path_of_one_file(ready, cohorts, tmp_path):
    """The steps of SlicerMONAIAuto3DSeg's monaibundle_inference.py."""
    image = cohorts["brats_mri"] / "case1" / "case1_t2.nii.gz"
    parser = ConfigParser()
    parser.read_config(str(ready / "configs" / "inference.json"))
    parser["bundle_root"] = str(ready)
    parser["dataset_dir"] = str(image.parent)
    parser["output_dir"] = str(tmp_path / "out")
    parser["datalist"] = [str(image)]
    parser["window_device"] = "cpu"
    parser["device"] = torch.device("cpu")
    parser["inferer"]["device"] = torch.device("cpu")
    parser["dataloader"]["num_workers"] = 0
    assert len(parser.get_parsed_content("dataloader")) == 1
    parser.get_parsed_content("evaluator").run()
    (result,) = (tmp_path / "out").rglob("*.nii.gz")
    assert result.name == "case1_seg.nii.gz"
    assert nib.load(result).shape == nib.load(image).shape
    assert parser.get_parsed_content("dataset")[0]["available"].all()  # the files beside it were found


@pytest.mark.parametrize("bundle", QUICK, indirect=True)
def test_segments_every_patient_of_a_folder_and_names_the_results_by_case(ready, cohorts, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    workflow = create_workflow(
        config_file=str(ready / "configs" / "inference.json"),
        workflow_type="infer",
        dataset_dir=str(cohorts[row_of(ready)["task"]]),
        output_dir=str(tmp_path / "out"),
        device="cpu",
    )
    assert workflow.bundle_root == str(ready)
    workflow.run()
    workflow.finalize()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"case{k}_seg.nii.gz" for k in range(4)}
    assert not any((tmp_path / "elsewhere").iterdir())


def test_one_patient_is_a_data_set_too(cohorts, tmp_path):
    shutil.copytree(cohorts["brats_mri"] / "case1", tmp_path / "case1")
    (item,) = inference_data(str(tmp_path), "brats_mri", None, None, 0, str(tmp_path / "none"))
    assert item["case"] == "case1"
    assert "label" not in item


@pytest.mark.parametrize(
    "given",
    [
        lambda paths: {"image": paths},
        lambda paths: {"image": dict(zip(("flair", "t1c", "t1", "t2"), paths, strict=True)), "case": "case1"},
        lambda paths: paths[0],
    ],
    ids=["a list in channel order", "by name", "the path of one"],
)
def test_items_of_a_list_may_be_what_other_programs_have(given, cohorts, tmp_path):
    from monai_passion.transforms import LoadModalitiesd

    paths = [f"case1/case1_{name}.nii.gz" for name in COHORTS["brats_mri"][0]]
    (item,) = inference_data(str(cohorts["brats_mri"]), "brats_mri", [given(paths)], None, 0, "")
    assert item["case"] == "case1"
    loaded = LoadModalitiesd(("flair", "t1c", "t1", "t2"))(item)
    assert loaded["available"].all()
    flair = nib.load(cohorts["brats_mri"] / paths[0]).get_fdata(dtype=np.float32)
    assert np.array_equal(loaded["image"][0].numpy(), flair)


@pytest.mark.parametrize("bundle", [BRATS], indirect=True)
def test_monai_deploys_operator_segments_by_the_exported_network_alone(ready, cohorts, tmp_path):
    """The steps of its MonaiBundleInferenceOperator, which brings the image and no word of what is there."""
    assert main(["bundles", "export", str(ready), "--output", str(tmp_path / "model.ts"), "--trust"]) == 0
    with zipfile.ZipFile(tmp_path / "model.ts") as archive:
        parser = ConfigParser()
        parser.read_meta(json.loads(archive.read("model/extra/metadata.json")))
        parser.read_config(json.loads(archive.read("model/extra/inference.json")))
    assert json.loads(parser["_meta_"]["monai_passion"]["modalities"]) == ["flair", "t1c", "t1", "t2"]
    before, after = (
        [t for t in parser.get_parsed_content(f"{when}processing").transforms if not _moves_files(t)]
        for when in ("pre", "post")
    )
    paths = [cohorts["brats_mri"] / "case1" / f"case1_{name}.nii.gz" for name in COHORTS["brats_mri"][0]]
    volumes = [nib.load(path).get_fdata(dtype=np.float32) for path in paths]
    image = MetaTensor(np.stack([*volumes[:3], 0 * volumes[3]]), affine=nib.load(paths[0]).affine)
    with torch.no_grad():
        data = Compose(before)({"image": image})
        others = {key: value[None] for key, value in data.items() if torch.is_tensor(value) and key != "image"}
        network = torch.jit.load(tmp_path / "model.ts")
        pred = parser.get_parsed_content("inferer")(inputs=data["image"][None], network=network, **others)
        found = Compose(after)({**data, "pred": pred[0]})["pred"]
        assert found.shape[1:] == volumes[0].shape
        window = torch.randn(1, 4, 32, 32, 32)
        window[:, 3] = 7
        torch.testing.assert_close(network(window), network(window, torch.tensor([[True] * 3 + [False]])))
        with pytest.raises((RuntimeError, torch.jit.Error), match="no available modality"):
            network(window, torch.zeros(1, 4, dtype=torch.bool))


def _moves_files(transform):
    return any(word in type(transform).__name__ for word in ("LoadImage", "SaveImage"))


def test_an_item_without_an_image_is_one_clear_line():
    with pytest.raises(InputError, match=r"datalist\[1\] has no image"):
        inference_data("", "brats_mri", ["a_t1.nii.gz", {"label": "x"}], None, 0, "")
