import numpy as np
import pytest
import torch

from monai_passion.cli import main
from monai_passion.commands.convert import NETWORKS
from monai_passion.networks import MMFormer
from monai_passion.networks.released import RELEASED_PREFIXES, RULES, translate
from monai_passion.networks.weights import load_into, load_weights
from tests.helpers.tasks import BRATS_MRI

PREFIXES = RELEASED_PREFIXES["brats_mri"]
BUILT = {"width": 2, "embedding": 16, "mlp": 24, "depth": 2, "roi_size": 32}


def released_names():
    """Array names of a released mmFormer of depth 2, training-only decoder left out, weights only."""

    def transformer(prefix):
        return [
            f"{prefix}.cross_{part}_list.{i}.fn.{name}"
            for i in range(2)
            for part, names in (("attention", ("norm", "fn.qkv", "fn.proj")), ("ffn", ("norm", "fn.net.0", "fn.net.3")))
            for name in names
        ]

    names = [*transformer("multimodal_transformer"), "multimodal_decode_conv", "decoder_fuse.seg_layer"]
    for m in PREFIXES:
        names += [f"{m}_encoder.e{level}_c{i}" + ".conv" * (level + i > 2) for level in range(1, 6) for i in (1, 2, 3)]
        names += [*transformer(f"{m}_transformer"), f"{m}_encode_conv"]
    names += [f"decoder_fuse.d{level}_{part}.conv" for level in range(1, 5) for part in ("c1", "c2", "out")]
    names += [f"decoder_fuse.seg_d{level}" for level in range(1, 5)]
    names += [f"decoder_fuse.RFM{level}.fusion_layer.{i}.conv" for level in range(1, 6) for i in range(3)]
    weights = [f"{name}.weight" for name in names]
    biases = [f"{name}.bias" for name in names if not name.endswith("qkv")]
    return [*weights, *biases, *(f"{m}_pos" for m in PREFIXES)]


@pytest.fixture
def checkpoint(tmp_path):
    """A function that writes a released checkpoint, after a change to its arrays."""
    rename, own = translate("mmformer", PREFIXES), MMFormer(**BUILT).state_dict()
    arrays = {}
    for name in released_names():
        ours, entry = rename(name)
        shape = own[ours].shape if entry is None else (1, *own[ours].shape[1:])
        arrays["module." + name] = torch.randn(shape)
    arrays["module.decoder_sep.seg_layer.bias"] = torch.zeros(4)

    def write(change=lambda arrays: None):
        change(arrays)
        path = tmp_path / "model_last.pth"
        torch.save({"epoch": 1, "state_dict": arrays, "optim_dict": {"state": {}, "param_groups": [{"lr": 1}]}}, path)
        return path, arrays

    return write


def convert(path, *more):
    output = path.with_name("model.safetensors")
    return main(["convert", str(path), "--network", "mmformer", "--output", str(output), *more]), output


def test_every_array_lands_and_the_network_is_described(checkpoint, capsys):
    path, arrays = checkpoint()
    code, output = convert(path, "--heads", "4")
    assert code == 0
    state, metadata = load_weights(output)
    arguments = {"num_modalities": 4, "num_classes": 4, "spatial_dims": 3, "heads": 4, **BUILT}
    assert metadata == {"network": "MMFormer", "arguments": arguments, "modalities": list(BRATS_MRI)}
    load_into(MMFormer(**metadata["arguments"]), output)
    assert torch.equal(
        state["intra.1.blocks.1.qkv.weight"], arrays["module.t1ce_transformer.cross_attention_list.1.fn.fn.qkv.weight"]
    )
    assert torch.equal(state["positions"][3:], arrays["module.t2_pos"])
    assert "dropped 1 arrays" in (printed := capsys.readouterr().out)
    assert "decoder_sep.seg_layer.bias" in printed


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda a: a.update(extra=torch.zeros(3)), "unknown: extra (3,)"),
        (lambda a: a.pop("module.t1_encode_conv.bias"), "missing: embed.2.bias"),
        (lambda a: a.update({"module.t2_encode_conv.bias": torch.zeros(5)}), "wrong shape: t2_encode_conv.bias (5,)"),
        (lambda a: a.pop("module.decoder_fuse.seg_layer.weight"), "no head.weight"),
        (lambda a: a.clear(), "no state_dict"),
    ],
    ids=["unknown", "missing", "shape", "not inferable", "empty"],
)  # fmt: skip
def test_anything_that_does_not_fit_is_named_and_nothing_written(checkpoint, capsys, change, said):
    path, _ = checkpoint(change)
    code, output = convert(path)
    assert code == 4
    assert said in capsys.readouterr().err
    assert not output.exists()


def test_another_network_is_refused_with_a_short_list(checkpoint, capsys):
    path, _ = checkpoint()
    output = path.with_name("model.safetensors")
    assert main(["convert", str(path), "--network", "rfnet", "--output", str(output)]) == 4
    assert len(capsys.readouterr().err.splitlines()) < 25


def test_a_wrong_flag_is_a_usage_error(checkpoint, capsys):
    path, _ = checkpoint()
    for flags, said in ((["--heads", "5"], "heads is 5"), (["--roi-size", "40"], "roi_size")):
        assert convert(path, *flags)[0] == 2
        assert said in capsys.readouterr().err


def test_wrong_paths(tmp_path, capsys):
    assert convert(tmp_path / "none.pth")[0] == 4
    (tmp_path / "text.pth").write_text("not weights")
    assert convert(tmp_path / "text.pth")[0] == 4
    assert main(["convert", "x.pth", "--network", "rfnet", "--output", "model.pt"]) == 2
    assert main(["convert", "x.pth", "--network", "rfnet", "--output", "m.safetensors", "--heads", "4"]) == 2


def test_networks_are_those_with_rules():
    assert NETWORKS.keys() == RULES.keys()


@pytest.mark.parametrize(("name", "heads"), [("mmformer", 4), ("rfnet", None), ("m2ftrans", 4), ("mmformer2d", 4)])
def test_released_weights(golden, tmp_path, name, heads):
    with np.load(golden / f"weights_{name}.npz") as file:
        torch.save({"state_dict": {"module." + k: torch.from_numpy(file[k]) for k in file.files}}, tmp_path / "m.pth")
    network, task = name.removesuffix("2d"), "myops_cmr" if name.endswith("2d") else "brats_mri"
    more = ["--heads", str(heads)] if heads else []
    output = str(tmp_path / "m.safetensors")
    assert (
        main(["convert", str(tmp_path / "m.pth"), "--network", network, "--task", task, "--output", output, *more]) == 0
    )
