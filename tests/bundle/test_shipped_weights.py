import shutil

import pytest

from monai_passion.bundle import weights as places
from monai_passion.bundle.facts import find_bundle
from monai_passion.errors import WeightsError
from monai_passion.prediction.segmenter import Segmenter


@pytest.fixture
def package(tmp_path, monkeypatch):
    monkeypatch.setattr(places, "resource_folder", lambda name: tmp_path / name)
    return tmp_path


def test_a_bundle_without_weights_of_its_own_takes_those_of_the_package(package, weights):
    bundle = find_bundle()
    copy = shutil.copytree(bundle.path / "configs", package / "bundle" / "configs").parent
    bundle = bundle._replace(path=copy)  # without the models of this checkout
    with pytest.raises(WeightsError, match="no weights in"):
        Segmenter(bundle)
    folder = shutil.copytree(weights.parent, package / "weights" / bundle.name)
    assert places.shipped_weights(bundle.name) == folder / "model.safetensors"
    assert Segmenter(bundle).weights == folder / "model.safetensors"
    assert Segmenter(bundle, weights=weights).weights == weights
