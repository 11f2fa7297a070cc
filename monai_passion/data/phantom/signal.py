"""Properties of tissues, and the MR signal that each pulse sequence gives them.

Times are in milliseconds, flip angles in radians, proton densities relative to CSF (brain) or free water (heart).
Sequences are signed: voxels mix signals before the magnitude is taken.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np

__all__ = [
    "BRAIN",
    "HEART",
    "LESIONS",
    "Tissue",
    "Value",
    "bssfp",
    "inversion_recovery",
    "null_inversion_time",
    "spin_echo",
]


Value: TypeAlias = float | np.ndarray


class Tissue(NamedTuple):
    """Relaxation times (ms) and proton density; ``t1_gd`` is T1 after gadolinium, where it is imaged."""

    t1: float
    t1_gd: float
    t2: float
    pd: float

    @property
    def uptake(self) -> float:
        """The rise of the relaxation rate r1 C = 1/T1_gd - 1/T1 (1/ms) that the contrast agent causes."""
        return 1 / self.t1_gd - 1 / self.t1


BRAIN = {
    "wm": Tissue(850, 835, 75, 0.70),
    "gm": Tissue(1400, 1330, 95, 0.83),
    "csf": Tissue(4000, 3900, 1500, 1.00),
    "vessel": Tissue(1800, 350, 40, 0.80),  # the short T2 stands for the flow void
    "ncr": Tissue(2400, 2000, 300, 0.95),
    "et": Tissue(1500, 700, 120, 0.86),
    "net": Tissue(1700, 1550, 160, 0.90),
    "ed": Tissue(1350, 1230, 140, 0.85),
}
"""Brain at 3 T: white and gray matter, CSF, vessels; necrotic, enhancing, non-enhancing tumor and edema."""

LESIONS = ("ncr", "et", "net", "ed")
"""The tissues of `BRAIN` that are disease."""

HEART = {
    "myocardium": Tissue(1000, 450, 52, 0.80),
    "lv_blood": Tissue(1550, 330, 250, 0.95),
    "rv_blood": Tissue(1550, 330, 170, 0.95),
    "edema": Tissue(1150, 400, 70, 0.85),
    "scar": Tissue(1100, 280, 56, 0.80),
    "fat": Tissue(260, 250, 85, 0.75),
    "muscle": Tissue(1000, 520, 44, 0.80),
    "lung": Tissue(1200, 800, 30, 0.15),
    "liver": Tissue(590, 330, 46, 0.75),
    "spleen": Tissue(1050, 350, 79, 0.80),
    "air": Tissue(1000, 1000, 1, 0.00),
}
"""Heart and its surroundings at 1.5 T; ``t1_gd`` is 10 to 15 minutes after injection."""


def spin_echo(pd: Value, t1: Value, t2: Value, *, tr: float, te: float) -> np.ndarray:
    """(Turbo) spin echo: S = PD (1 - exp(-TR/T1)) exp(-TE/T2)."""
    return pd * (1 - np.exp(-tr / t1)) * np.exp(-te / t2)


def inversion_recovery(pd: Value, t1: Value, t2: Value, *, tr: float, te: float, ti: float) -> np.ndarray:
    """Inversion recovery, signed: S = PD (1 - 2 exp(-TI/T1) + exp(-TR/T1)) exp(-TE/T2)."""
    return pd * (1 - 2 * np.exp(-ti / t1) + np.exp(-tr / t1)) * np.exp(-te / t2)


def null_inversion_time(t1: float, tr: float) -> float:
    """The TI at which `inversion_recovery` of a tissue vanishes: T1 ln(2 / (1 + exp(-TR/T1)))."""
    return float(t1 * np.log(2 / (1 + np.exp(-tr / t1))))


def bssfp(pd: Value, t1: Value, t2: Value, *, tr: float, flip: float) -> np.ndarray:
    """Balanced steady state free precession at TE = TR/2, on resonance.

    S = PD sin(a) sqrt(E2) (1 - E1) / (1 - (E1 - E2) cos(a) - E1 E2) with E1 = exp(-TR/T1), E2 = exp(-TR/T2).
    """
    e1, e2 = np.exp(-tr / t1), np.exp(-tr / t2)
    return pd * np.sin(flip) * np.sqrt(e2) * (1 - e1) / (1 - (e1 - e2) * np.cos(flip) - e1 * e2)
