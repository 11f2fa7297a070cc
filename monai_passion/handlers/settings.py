"""Settings of optimizers and schedules: a resumed training follows what is configured now, not what was saved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

__all__ = ["apply_settings", "changes", "plain_attributes", "read_settings"]

PROGRESS_KEYS = {"last_epoch", "best", "num_bad_epochs", "cooldown_counter"}
"""Keys of a schedule's state that describe the course of the training; other public keys are settings."""

FORM = {"foreach", "fused", "capturable", "differentiable"}
"""Settings of how an optimizer computes its steps and where its state lies: a training keeps its first ones."""


def read_settings(objects: Mapping[str, Any]) -> dict[tuple[str, int, str], Any]:
    """(name, parameter group, setting) -> value, for the optimizers and schedules among ``objects``.

    A schedule is left out if its rate does not follow from its settings and the epoch, such as a chain of schedules.
    """
    found: dict[tuple[str, int, str], Any] = {}
    for name, thing in objects.items():
        if isinstance(thing, Optimizer):
            for k, group in enumerate(thing.param_groups):
                group.setdefault("initial_lr", group["lr"])
                found |= {(name, k, key): value for key, value in group.items() if key not in {"params", "lr"} | FORM}
        elif _is_plain_schedule(thing):
            state = {key: value for key, value in thing.state_dict().items() if key not in PROGRESS_KEYS}
            found |= {(name, 0, key): value for key, value in state.items() if not key.startswith("_")}
    return found


def plain_attributes(objects: Mapping[str, Any]) -> dict[str, Any]:
    """ "<name> <attribute>" -> value, for the public numbers, strings and bools of the modules among ``objects``."""
    return {
        f"{name} {key}": value
        for name, thing in objects.items()
        if isinstance(thing, nn.Module)
        for key, value in vars(thing).items()
        if isinstance(value, int | float | str) and not key.startswith("_") and key != "training"
    }


def changes(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """The keys that both have with different values, each in words."""
    return [f"{key} was {there[key]}, now {here[key]}" for key in here if key in there and there[key] != here[key]]


def apply_settings(objects: Mapping[str, Any], wanted: Mapping[tuple[str, int, str], Any]) -> list[str]:
    """Set the values that differ from ``wanted``, a result of `read_settings`, and the learning rates that follow.

    The rates are those of a training that had these settings from its start.

    Returns:
        The changes, each in words; if there are none, nothing is touched.
    """
    there = read_settings(objects)
    changed = {key: value for key, value in wanted.items() if key in there and there[key] != value}
    before = [
        (group, group["initial_lr"])
        for thing in objects.values()
        if isinstance(thing, Optimizer)
        for group in thing.param_groups
    ]
    for (name, k, key), value in changed.items():
        if isinstance(thing := objects[name], Optimizer):
            thing.param_groups[k][key] = value
        else:
            thing.load_state_dict({**thing.state_dict(), key: value})
    if changed:
        for group, initial in before:
            group["lr"] *= group["initial_lr"] / initial
    for name, thing in objects.items():
        if any(name == where for where, _, _ in changed) and hasattr(thing, "_get_closed_form_lr"):
            thing._last_lr = [float(rate) for rate in thing._get_closed_form_lr()]
            for group, rate in zip(thing.optimizer.param_groups, thing._last_lr, strict=True):
                group["lr"] = rate
    skipped = {"initial_lr"} if any(key == "base_lrs" for _, _, key in changed) else set()
    return [
        f"{name} {key} was {there[name, k, key]}, now {value}"
        for (name, k, key), value in changed.items()
        if key not in skipped
    ]


def _is_plain_schedule(thing: Any) -> bool:
    return isinstance(thing, ReduceLROnPlateau) or (
        isinstance(thing, LRScheduler) and hasattr(thing, "_get_closed_form_lr")
    )
