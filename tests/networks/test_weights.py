import pytest
import torch
from torch import nn

from monai_passion.errors import ResourceError, WeightsError
from monai_passion.networks import RFNet
from monai_passion.networks.weights import load_into, load_weights, save_weights
from monai_passion.system.files import sha256


@pytest.fixture
def network():
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_weights_and_metadata_come_back_as_they_were(network, tmp_path):
    path = tmp_path / "new" / "w.safetensors"
    save_weights(network, path, {"modalities": ["flair", "t1"], "arguments": {"width": 8}})
    state, metadata = load_weights(path)
    assert equal(state, network.state_dict())
    assert metadata == {"modalities": ["flair", "t1"], "arguments": {"width": 8}, "network": "Sequential"}


def test_nothing_but_weights_and_checksum_is_left(network, tmp_path):
    save_weights(network, tmp_path / "w.safetensors")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["w.safetensors", "w.safetensors.sha256"]
    assert (tmp_path / "w.safetensors.sha256").read_text().split() == [
        sha256(tmp_path / "w.safetensors"),
        "w.safetensors",
    ]


def test_a_failed_save_keeps_the_old_weights(network, tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    save_weights(network, path)
    before = path.read_bytes()

    def full(state, name, header):
        name.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("monai_passion.networks.weights.save_file", full)
    with pytest.raises(ResourceError, match="No space left"):
        save_weights(nn.Linear(2, 2), path)
    assert path.read_bytes() == before
    assert load_weights(path)
    assert not list(tmp_path.glob(".*"))


def test_tied_and_transposed_weights_are_saved(tmp_path):
    values = torch.randn(3, 2)
    save_weights({"a": values, "b": values.T}, tmp_path / "w.safetensors")
    state, _ = load_weights(tmp_path / "w.safetensors")
    assert torch.equal(state["a"].T, state["b"])


def test_only_safetensors_are_written(network, tmp_path):
    with pytest.raises(ValueError, match="safetensors"):
        save_weights(network, tmp_path / "w.pt")


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"model": s}, lambda s: {"epoch": 3, "state_dict": s}])
def test_files_of_torch_save(network, tmp_path, wrap):
    torch.save(wrap({"module." + k: v for k, v in network.state_dict().items()}), tmp_path / "w.pt")
    state, metadata = load_weights(tmp_path / "w.pt")
    assert equal(state, network.state_dict())
    assert metadata == {}


class Runs:
    def __reduce__(self):
        return print, ("this must not run",)


def test_a_pickle_with_code_is_not_run(tmp_path, capsys):
    torch.save({"model": {"a": Runs()}}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="not a readable file of weights"):
        load_weights(tmp_path / "w.pt")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("content", [{}, {"model": 3}, [torch.zeros(1)], {"a": "text"}], ids=str)
def test_a_file_without_a_state_dict(tmp_path, content):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="no state_dict"):
        load_weights(tmp_path / "w.pt")


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
@pytest.mark.parametrize("keep", [0, 5, 0.5, 0.99])
def test_a_truncated_file(network, tmp_path, name, keep):
    path = tmp_path / name
    if path.suffix == ".pt":
        torch.save(network.state_dict(), path)
    else:
        save_weights(network, path)
        (tmp_path / "w.safetensors.sha256").unlink()
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    with pytest.raises(WeightsError, match="again") as error:
        load_weights(path)
    assert "\n" not in str(error.value)


def test_one_flipped_bit_is_noticed(network, tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(network, path)
    expected = sha256(path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsError) as error:
        load_weights(path)
    assert expected in str(error.value)
    assert sha256(path) in str(error.value)


def test_no_file(tmp_path):
    with pytest.raises(WeightsError, match="no weights at"):
        load_weights(tmp_path / "w.safetensors")


def test_load_into_gives_the_network_its_weights(tmp_path):
    source, target = RFNet(width=2, levels=2), RFNet(width=2, levels=2)
    save_weights(source, tmp_path / "w.safetensors", {"modalities": ["a"]})
    assert load_into(target, tmp_path / "w.safetensors")["modalities"] == ["a"]
    assert equal(source.state_dict(), target.state_dict())


def test_weights_of_another_network_are_refused(network, tmp_path):
    save_weights(network, tmp_path / "w.safetensors", {"network": "MMFormer"})
    with pytest.raises(WeightsError, match="weights of MMFormer, not of Sequential"):
        load_into(network, tmp_path / "w.safetensors")


def test_every_difference_is_listed_and_nothing_is_loaded(network, tmp_path):
    state = network.state_dict()
    state["0.bias"] = torch.zeros(7)
    state["1.bias"] = torch.full((2,), torch.nan)
    state["extra"] = state.pop("1.weight")
    save_weights(state, tmp_path / "w.safetensors")
    before = {k: v.clone() for k, v in network.state_dict().items()}
    with pytest.raises(WeightsError) as error:
        load_into(network, tmp_path / "w.safetensors")
    for part in ("0.bias is (7,) and should be (4,)", "1.bias is not finite", "unknown extra", "missing 1.weight"):
        assert part in str(error.value)
    assert equal(before, network.state_dict())


@pytest.mark.parametrize("wrapper", [torch.nn.DataParallel, torch.compile])
def test_a_wrapped_network_is_saved_as_itself(network, tmp_path, wrapper):
    save_weights(wrapper(network), tmp_path / "w.safetensors")
    state, metadata = load_weights(tmp_path / "w.safetensors")
    assert metadata["network"] == type(network).__name__
    assert state.keys() == network.state_dict().keys()


def test_a_setting_that_is_left_open_is_null(network, tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(network, path, {"settings": {"pixel_size": None, "width": 8}})
    assert load_weights(path)[1]["settings"] == {"pixel_size": None, "width": 8}


@pytest.mark.parametrize("settings", [{"width": "$print(1)"}, {"a b": 1}, {"width": {"_target_": 1}}, ["width"]])
def test_settings_that_would_run_in_a_configuration_are_refused(network, tmp_path, settings):
    save_weights(network, tmp_path / "w.safetensors", {"settings": settings})
    with pytest.raises(WeightsError, match="not names with numbers"):
        load_weights(tmp_path / "w.safetensors")
