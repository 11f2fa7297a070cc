from typing import NamedTuple

import pytest
import torch

from monai_passion.errors import UsageError
from monai_passion.networks.precision import choose_precision, name_precision, needs_scaler, to_single

CPU = torch.device("cpu")


class Pair(NamedTuple):
    maps: tuple[torch.Tensor, ...]
    names: tuple[tuple[int, int], ...]


@pytest.mark.parametrize(
    ("amx", "avx512", "chosen"),
    [(True, False, torch.bfloat16), (False, True, torch.bfloat16), (False, False, torch.float32)],
)
def test_auto_is_half_precision_only_where_the_processor_has_units_for_it(amx, avx512, chosen, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512, raising=False)
    assert choose_precision("auto", CPU) == chosen
    assert name_precision("auto", CPU) == ("bf16" if amx or avx512 else "fp32")


@pytest.mark.parametrize(("capability", "chosen"), [((8, 0), torch.bfloat16), ((7, 5), torch.float32)])
def test_auto_on_a_gpu_goes_by_what_it_can_do(capability, chosen, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert choose_precision("auto", torch.device("cuda")) == chosen


@pytest.mark.parametrize("precision", ["fp8", "fp16"])
def test_what_a_processor_cannot_do_is_refused(precision):
    with pytest.raises(UsageError, match="give auto"):
        choose_precision(precision, CPU)


def test_the_loss_is_scaled_in_fp16_alone():
    assert needs_scaler("fp16", torch.device("cuda"))
    assert not needs_scaler("bf16", CPU)


def test_outputs_become_single_precision_and_keep_their_structure():
    half = Pair((torch.ones(2, dtype=torch.bfloat16), torch.ones(1, dtype=torch.bool)), ((0, 1),))
    single = to_single(half)
    assert isinstance(single, Pair)
    assert [value.dtype for value in single.maps] == [torch.float32, torch.bool]
    assert single.names == ((0, 1),)
