"""Weights of the released PASSION code -> weights of these networks.

Released checkpoints spell modality, level and class in the parameter names; `RULES` maps them to the names here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["RELEASED_PREFIXES", "Converted", "convert_state_dict", "infer_arguments", "translate"]

RELEASED_PREFIXES: dict[str, tuple[str, ...]] = {
    "brats_mri": ("flair", "t1ce", "t1", "t2"),
    "myops_cmr": ("bssfp", "lge", "t2"),
}
"""How the released parameter names spell the modalities, in channel order."""

RELEASED_STRIDE = 16
"""Voxels per token along each axis, in the released transformers."""

SEPARATE = "separate."
"""Prefix of the translated names that belong to the training-only `SeparateDecoder`."""

Rule = tuple[str, str]

_ENCODER: list[Rule] = [(r"M_encoder\.e(L)_c(L)(?:\.conv)?\.(W)", "encoders.{m}.levels.{0}.{1}.conv.{2}")]
_DECODER: list[Rule] = [
    (r"D\.d(L)_c1\.conv\.(W)", "up.{0}.conv.{1}"),
    (r"D\.d(L)_c2\.conv\.(W)", "merge.{0}.0.conv.{1}"),
    (r"D\.d(L)_out\.conv\.(W)", "merge.{0}.1.conv.{1}"),
    (r"D\.seg_layer\.(W)", "head.{0}"),
]
_SEPARATE: list[Rule] = [
    (r"decoder_sep\.d(L)_c(L)\.conv\.(W)", SEPARATE + "levels.{0}.{1}.conv.{2}"),
    (r"decoder_sep\.d(L)_out\.conv\.(W)", SEPARATE + "levels.{0}.2.conv.{1}"),
    (r"decoder_sep\.seg_layer\.(W)", SEPARATE + "head.{0}"),
]


def _transformer(released: str, ours: str) -> list[Rule]:
    """Rules of a transformer; both are prefixes."""
    return [
        (released + r"\.cross_attention_list\.(N)\.fn\.norm\.(W)", ours + ".{0}.norm1.{1}"),
        (released + r"\.cross_attention_list\.(N)\.fn\.fn\.(qkv|proj)\.(W)", ours + ".{0}.{1}.{2}"),
        (released + r"\.cross_ffn_list\.(N)\.fn\.norm\.(W)", ours + ".{0}.norm2.{1}"),
        (released + r"\.cross_ffn_list\.(N)\.fn\.fn\.net\.0\.(W)", ours + ".{0}.mlp.linear1.{1}"),
        (released + r"\.cross_ffn_list\.(N)\.fn\.fn\.net\.3\.(W)", ours + ".{0}.mlp.linear2.{1}"),
    ]


def _cross_tokens(released: str, ours: str) -> list[Rule]:
    """Rules of the cross-token layers of one level."""
    attention = rf"D\.{released}\.layers\.(N)\.cross_attn\."
    rules = [
        (attention + r"query_map\.(conv|norm)(N)\.(W)", ours + ".{0}.query.{1}{2}.{3}"),
        (attention + r"out_project\.(conv|norm)(N)\.(W)", ours + ".{0}.out.{1}{2}.{3}"),
        (attention + r"key_map_M\.(conv|norm)(N)\.(W)", ours + ".{0}.keys.{m}.{1}{2}.{3}"),
        (attention + r"value_map_M\.(conv|norm)(N)\.(W)", ours + ".{0}.values.{m}.{1}{2}.{3}"),
    ]
    for number, update in ((1, "query_update"), (2, "modality_update")):
        perceptron = rf"D\.{released}\.layers\.(N)\.ffn{number}\."
        for name, conv in (("pwconv1", "conv1"), ("dwconv", "conv2"), ("pwconv2", "conv3")):
            rules.append((perceptron + rf"{name}\.(W)", ours + f".{{0}}.{update}.{conv}.{{1}}"))
        rules.append((perceptron + r"norm(N)\.(W)", ours + f".{{0}}.{update}.norm{{1}}.{{2}}"))
    return rules


_FUSION: list[Rule] = [
    (r"D\.RFM(L)\.fusion_layer\.0\.conv\.(W)", "fuse.{0}.{1}"),
    (r"D\.RFM(L)\.fusion_layer\.(L)\.conv\.(W)", "fused.{0}.{1}.conv.{2}"),
]
RULES: dict[str, list[Rule]] = {
    "m2ftrans": [
        *_ENCODER,
        *_DECODER,
        *_SEPARATE,
        *_transformer(r"Bottleneck\.trans_bottle", "transformer"),
        (r"pos", "positions"),
        (r"fusion", "fusion_tokens"),
        *_FUSION,
        (r"D\.prm_fusion(L)\.prm_layer\.0\.conv\.(W)", "deep_heads.{0}.0.conv.{1}"),
        (r"D\.prm_fusion(L)\.prm_layer\.1\.(W)", "deep_heads.{0}.1.{1}"),
        *_cross_tokens("CT4", "cross.0"),
        *_cross_tokens("CT5", "cross.1"),
    ],
    "mmformer": [
        *_ENCODER,
        *_DECODER,
        *_SEPARATE,
        *_transformer("M_transformer", "intra.{m}.blocks"),
        *_transformer("multimodal_transformer", "inter.blocks"),
        (r"M_encode_conv\.(W)", "embed.{m}.{0}"),
        (r"M_pos", "positions[{m}]"),
        (r"multimodal_decode_conv\.(W)", "bottleneck.{0}"),
        (r"D\.seg_d(L)\.(W)", "deep_heads.{0}.{1}"),
        (r"D\.RFM5\.fusion_layer\.0\.conv\.(W)", "fuse_bottleneck.conv.{0}"),
        *_FUSION,
    ],
    "rfnet": [
        *_ENCODER,
        *_DECODER,
        *_SEPARATE,
        (r"D\.RFM(L)\.modal_fusion\.(N)\.weight_layer\.0\.(W)", "fusion.{0}.hidden_{2}[{1}]"),
        (r"D\.RFM(L)\.modal_fusion\.(N)\.weight_layer\.2\.(W)", "fusion.{0}.weight_{2}[{1}]"),
        (r"D\.RFM(L)\.region_fusion\.fusion_layer\.(N)\.conv\.(W)", "fusion.{0}.region.{1}.conv.{2}"),
        (r"D\.RFM(L)\.short_cut\.0\.conv\.(W)", "fusion.{0}.shortcut_fuse.{1}"),
        (r"D\.RFM(L)\.short_cut\.(L)\.conv\.(W)", "fusion.{0}.shortcut.{1}.conv.{2}"),
        (r"D\.prm_generator(L)\.embedding_layer\.0\.conv\.(W)", "probability.{0}.fuse.{1}"),
        (r"D\.prm_generator(L)\.embedding_layer\.(L)\.conv\.(W)", "probability.{0}.embed.{1}.conv.{2}"),
        (r"D\.prm_generator(L)\.prm_layer\.0\.conv\.(W)", "probability.{0}.hidden.conv.{1}"),
        (r"D\.prm_generator(L)\.prm_layer\.1\.(W)", "probability.{0}.head.{1}"),
    ],
}
"""Per network: released name -> name here. In a pattern, L is a number counted from 1 (from 0 here), N a number counted
from 0, W "weight" or "bias", M a modality, D the fusing decoder. "name[k]" is entry k of a stacked parameter."""


def _compile(rules: Sequence[Rule], modalities: Sequence[str]) -> list[tuple[re.Pattern[str], tuple[bool, ...], str]]:
    longest_first = sorted(modalities, key=len, reverse=True)
    symbols = {"L": r"\d+", "N": r"\d+", "W": r"weight|bias"}
    compiled = []
    for pattern, target in rules:
        groups = re.findall(r"\(([^()?]+)\)", pattern)
        for symbol, text in symbols.items():
            pattern = pattern.replace(f"({symbol})", f"({text})")
        pattern = re.sub(r"^D(?=\\)", r"(?:decoder_fuse|decoder_fusion)", pattern)
        pattern = re.sub(r"(?<![A-Za-z])M(?=_|\\\.)", "(?P<m>" + "|".join(longest_first) + ")", pattern)
        compiled.append((re.compile(pattern), tuple(g == "L" for g in groups), target))
    return compiled


def translate(network: str, modalities: Sequence[str]) -> Callable[[str], tuple[str, int | None] | None]:
    """A function: released parameter name -> (name here, entry of a stacked parameter or None), None if unknown.

    Names of the training-only decoder come out with the prefix ``"separate."``.
    """
    rules = _compile(RULES[network], modalities)

    def rename(name: str) -> tuple[str, int | None] | None:
        for pattern, from_one, target in rules:
            match = pattern.fullmatch(name)
            if match is None:
                continue
            named = match.groupdict().get("m")
            values = [g for i, g in enumerate(match.groups(), 1) if i != pattern.groupindex.get("m")]
            values = [str(int(v) - 1) if one else v for v, one in zip(values, from_one, strict=True)]
            renamed = target.format(*values, m=modalities.index(named) if named else "")
            stacked = re.fullmatch(r"(.+)\[(\d+)\]", renamed)
            return (stacked[1], int(stacked[2])) if stacked else (renamed, None)
        return None

    return rename


def infer_arguments(released: Mapping[str, Tensor], network: str, modalities: Sequence[str]) -> dict[str, Any]:
    """The network's arguments behind a released ``state_dict``, as far as its shapes tell them.

    They do not tell the number of attention heads, nor ``roi_size`` if the tokens are not a square or cube.

    Raises:
        ValueError: an array that tells one of them is missing.
    """
    rename = translate(network, modalities)
    shapes: dict[str, tuple[int, ...]] = {}
    for name, values in released.items():
        renamed = rename(name.removeprefix("module."))
        if renamed is not None:
            shapes[renamed[0]] = tuple(values.shape)

    def shape(name: str) -> tuple[int, ...]:
        if name not in shapes:
            raise ValueError(
                f"these are not weights of {network} with the modalities {', '.join(modalities)}: no {name}"
            )
        return shapes[name]

    first = shape("encoders.0.levels.0.0.conv.weight")
    arguments: dict[str, Any] = {
        "num_modalities": len(modalities),
        "num_classes": shape("head.weight")[0],
        "spatial_dims": 2 if first[-1] == 1 else 3,
        "width": first[0],
    }
    if network == "rfnet":
        return arguments
    if network == "mmformer":
        tokens, blocks = shape("positions")[-2], "inter.blocks"
        arguments["embedding"] = shape("embed.0.weight")[0]
    else:
        tokens, blocks = shape("fusion_tokens")[-2], "transformer"
    side = round(tokens ** (1 / arguments["spatial_dims"]))
    if side ** arguments["spatial_dims"] == tokens:
        arguments["roi_size"] = side * RELEASED_STRIDE
    arguments["depth"] = sum(re.fullmatch(rf"{blocks}\.\d+\.qkv\.weight", name) is not None for name in shapes)
    arguments["mlp"] = shape(f"{blocks}.0.mlp.linear1.weight")[0]
    return arguments


class Converted(NamedTuple):
    """The arrays of a released checkpoint under the names of this package."""

    backbone: dict[str, Tensor]
    separate: dict[str, Tensor]
    """Weights of the training-only decoder (empty when the checkpoint has none)."""
    dropped: list[str]
    """Released names that inference does not need."""


def convert_state_dict(
    released: Mapping[str, Tensor], network: str, backbone: nn.Module, modalities: Sequence[str]
) -> Converted:
    """Rename the arrays of a released ``state_dict`` (with or without the prefix ``module.``) for ``backbone``.

    Args:
        network: "rfnet", "mmformer" or "m2ftrans".
        backbone: the network of this package that the weights must fit; it is not changed.
        modalities: how the released names spell the modalities, in channel order (`RELEASED_PREFIXES`).

    Raises:
        ValueError: an unknown name, a wrong shape, or a parameter of ``backbone`` without values; all are listed.
    """
    rename = translate(network, modalities)
    target = {name: torch.full_like(p, torch.nan) for name, p in backbone.state_dict().items()}
    separate: dict[str, Tensor] = {}
    dropped: list[str] = []
    problems: list[str] = []
    filled: set[tuple[str, int | None]] = set()
    for name, values in released.items():
        name = name.removeprefix("module.")
        renamed = rename(name)
        if renamed is None:
            problems.append(f"unknown: {name} {tuple(values.shape)}")
            continue
        ours, entry = renamed
        if ours.startswith(SEPARATE):
            separate[ours.removeprefix(SEPARATE)] = values
            dropped.append(name)
            continue
        slot = target.get(ours)
        if slot is not None and entry is not None:
            slot = slot[entry] if entry < len(slot) else None
        if slot is None or (ours, entry) in filled:
            problems.append(f"no place: {name} -> {ours} {tuple(values.shape)}")
        # A 2-D network was released as a 3-D one of depth 1, and linear layers as 1x1x1 convolutions.
        elif [s for s in values.shape if s != 1] != [s for s in slot.shape if s != 1]:
            problems.append(f"wrong shape: {name} {tuple(values.shape)} -> {ours} {tuple(slot.shape)}")
        else:
            slot.copy_(values.reshape(slot.shape))
            filled.add((ours, entry))
    for name, slot in target.items():
        entries = (
            [None] if (name, None) in filled else range(len(slot)) if any(n == name for n, _ in filled) else [None]
        )
        if any((name, entry) not in filled for entry in entries):
            problems.append(f"missing: {name} {tuple(slot.shape)}")
    if problems:
        raise ValueError(f"these are not weights of {network} as built here:\n  " + "\n  ".join(problems))
    return Converted(target, separate, dropped)
