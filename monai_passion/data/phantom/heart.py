"""Infarct phantom: short-axis slices of a heart with scar and edema, imaged by three sequences as MyoPS has them.

Positions: x runs along the first array axis from the patient's right (and front) to the left, y along the second from
the diaphragm upwards; both in mm about the middle of the picture.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from monai_passion.data.phantom import common
from monai_passion.data.phantom.common import CenteredGrid, PhantomCase, paint, smooth_field, soft_step
from monai_passion.data.phantom.signal import HEART, Tissue, bssfp, inversion_recovery, null_inversion_time, spin_echo

__all__ = ["Infarct", "acquire", "draw_infarct", "heart_case"]

FIELD_OF_VIEW = 187.0
"""Edge of the picture in mm, whatever its number of voxels; 0.73 mm at 256."""
SLICES = {3: 23.0, 4: 14.0, 5: 14.0, 6: 12.0}
"""Number of slices -> distance of slices in mm."""
DIRECTIONS = np.array([[-0.87, -0.22, 0.44], [-0.48, 0.15, -0.86], [0.12, 0.96, 0.24]])
"""Columns: roughly where the array's axes point in the patient (RAS+) for a usual short-axis view."""

NOISE = {"bssfp": 0.03, "lge": 0.06, "t2": 0.06}
INU = 0.40
BRIGHTEST = {"bssfp": "lv_blood", "lge": "scar", "t2": "edema"}
"""The tissue that noise is relative to."""
BLOOD_LEFT = 0.05
"""Share of the signal of flowing blood that the black-blood preparation of the T2 sequence leaves."""
FAT_LEFT = 0.4
"""Share of the signal of fat that its spectral fat saturation leaves."""

MADE_OF = {"papillary": "myocardium", "trabecula": "myocardium", "rv_wall": "myocardium", "lung_vessel": "rv_blood"}
"""Structures that look like another tissue but carry another label."""
LABELS = {
    200: ("myocardium",),
    500: ("lv_blood", "papillary"),
    600: ("rv_blood", "trabecula"),
    1220: ("edema",),
    2221: ("scar",),
}


class Infarct(NamedTuple):
    """Where the infarct lies in the wall; angles in radians, ``transmurality`` as a share of the wall from inside."""

    angle: float
    scar_width: float
    edema_width: float
    transmurality: float


def draw_infarct(rng: np.random.Generator) -> Infarct:
    """Scar over 60 to 120 degrees and 25 to 100 % of the wall, edema over a wider sector and the whole wall."""
    scar = rng.uniform(60, 120)
    return Infarct(
        angle=float(rng.uniform(-np.pi, np.pi)),
        scar_width=float(np.deg2rad(scar)),
        edema_width=float(np.deg2rad(scar + rng.uniform(25, 80))),
        transmurality=float(rng.uniform(0.25, 1.0)),
    )


def acquire(tissue: Tissue, inversion_time: float | None = None) -> dict[str, np.ndarray]:
    """Signed signal under bSSFP, LGE (inversion recovery after contrast) and T2-weighted TSE, before suppression.

    Args:
        inversion_time: of LGE, in ms; by default the one that nulls `HEART`'s myocardium.
    """
    pd, t1, t1_gd, t2 = tissue.pd, tissue.t1, tissue.t1_gd, tissue.t2
    ti = null_inversion_time(HEART["myocardium"].t1_gd, 1600) if inversion_time is None else inversion_time
    return {
        "bssfp": bssfp(pd, t1, t2, tr=2.7, flip=np.deg2rad(60)),
        "lge": inversion_recovery(pd, t1_gd, t2, tr=1600, te=1.8, ti=ti),
        "t2": spin_echo(pd, t1, t2, tr=2000, te=90),
    }


def disc(x: np.ndarray, y: np.ndarray, radii: tuple[float, float], turn: float = 0.0) -> np.ndarray:
    """Signed distance (mm, roughly) to an ellipse about 0, turned by an angle in radians."""
    u, v = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    return (np.hypot(u / radii[0], v / radii[1]) - 1) * min(radii)


def paint_chest(
    fractions: dict[str, np.ndarray], rng: np.random.Generator, grid: CenteredGrid, edge: float
) -> np.ndarray:
    """Lung, liver, spleen and the chest wall; returns the distance (mm) from the front of the chest."""
    x, y, _ = grid.axes
    fractions["lung"] = np.ones(grid.shape, np.float32)
    bronchi = np.hypot(smooth_field(rng, grid, 14.0), smooth_field(rng, grid, 14.0))
    paint(fractions, "lung_vessel", 0.8 * soft_step(8 * (bronchi - 0.12), edge))

    wobble = smooth_field(rng, grid, 45.0)
    diaphragm = y + rng.uniform(29, 36) + 0.0035 * (x + rng.uniform(-10, 30)) ** 2 + 3 * wobble
    paint(fractions, "liver", soft_step(diaphragm, edge))
    paint(fractions, "fat", 0.6 * soft_step(np.abs(diaphragm) - wobble, edge))
    spleen = disc(x - rng.uniform(45, 60), y + rng.uniform(56, 68), (rng.uniform(18, 26), rng.uniform(16, 22)))
    paint(fractions, "fat", soft_step(spleen + wobble - 2, edge))
    paint(fractions, "spleen", soft_step(spleen + 2.5 * wobble, edge))

    tilt = np.deg2rad(rng.uniform(35, 55))
    across = y * np.cos(tilt) + x * np.sin(tilt)
    wall = x * np.cos(tilt) - y * np.sin(tilt) + 0.002 * across**2 + 3 * wobble + rng.uniform(50, 60)
    ribs = smooth_field(rng, grid, 18.0)
    paint(fractions, "fat", soft_step(wall - 4, edge))
    paint(fractions, "muscle", soft_step(wall + 2, edge))
    paint(fractions, "fat", soft_step(np.maximum(wall + 6, 4 * (0.4 - ribs)), edge))
    paint(fractions, "muscle", soft_step(wall + 13, edge))
    paint(fractions, "fat", soft_step(wall + 19, edge))
    paint(fractions, "air", soft_step(wall + rng.uniform(32, 44), edge))
    return np.maximum(wall + 20, 0)


def paint_heart(fractions: dict[str, np.ndarray], rng: np.random.Generator, grid: CenteredGrid, edge: float) -> None:
    """Both ventricles from base (first slice) to apex, with the infarct, in a coat of fat."""
    x, y, z = grid.axes
    apical = (z - z.min()) / np.ptp(z)
    x = x - rng.uniform(2, 12) - rng.uniform(-3, 5) * apical
    y = y - rng.uniform(-6, 6) - rng.uniform(-5, 3) * apical
    infarct = draw_infarct(rng)

    ripple = smooth_field(rng, grid, 16.0, 8.0)
    lumps = smooth_field(rng, grid, 40.0)
    cavity = rng.uniform(21.5, 25.5) * (1 - 0.45 * apical**2)
    thickness = rng.uniform(9, 11) * (1 - 0.15 * apical) * (1 + 0.08 * lumps)
    oval = 1 + 0.05 * np.cos(2 * (np.arctan2(y, x) - rng.uniform(0, np.pi)))
    r = np.hypot(x, y) / oval
    endocardium = r - cavity + 1.3 * ripple
    epicardium = r - cavity - thickness

    size = 1 - 0.4 * apical
    turn = np.deg2rad(rng.uniform(-25, 15))
    away = cavity + thickness - 2.0
    u, v = x * np.cos(turn) + y * np.sin(turn) + away, y * np.cos(turn) - x * np.sin(turn) - rng.uniform(-4, 4)
    radii = rng.uniform(33, 43), rng.uniform(30, 38)
    bulge = 1 - 0.35 * np.clip(-u / radii[0], 0, 1)  # narrower towards the free wall: a crescent, not a disc
    right = (np.hypot(u / radii[0], v / (radii[1] * bulge)) - size) * min(radii) + 2.0 * lumps + 0.8 * ripple

    coat = np.minimum(epicardium, right - 3)
    fat = 3 + 3 * smooth_field(rng, grid, 30.0) + 5 * np.exp(-((np.maximum(epicardium, right) / 6) ** 2))
    paint(fractions, "fat", soft_step(coat - np.maximum(fat, 0), edge))
    paint(fractions, "air", 0.6 * soft_step(np.abs(coat - 1.0) - 0.5, edge))  # pericardium: no signal
    paint(fractions, "rv_wall", soft_step(right - 3, edge))
    paint(fractions, "rv_blood", soft_step(right, edge))
    trabeculae = soft_step(6 * (1.1 - smooth_field(rng, grid, 7.0)), edge) * soft_step(-right - 9, edge)
    paint(fractions, "trabecula", 0.7 * trabeculae * soft_step(right, edge))

    angle = np.arctan2(y, x)
    off_center = np.abs((angle - infarct.angle + np.pi) % (2 * np.pi) - np.pi)
    arc = np.maximum(r, 5) * (off_center - infarct.edema_width / 2 * (1 - 0.15 * apical)) + 2.0 * ripple
    scar_arc = np.maximum(r, 5) * (off_center - infarct.scar_width / 2 * (1 - 0.15 * apical)) + 2.0 * ripple
    depth = endocardium - infarct.transmurality * thickness * (1 + 0.25 * smooth_field(rng, grid, 18.0))
    paint(fractions, "myocardium", soft_step(epicardium, edge))
    paint(fractions, "edema", soft_step(np.maximum(epicardium, arc), 4.0))
    paint(fractions, "scar", soft_step(np.maximum.reduce([epicardium, scar_arc, depth]), 3.0))
    paint(fractions, "lv_blood", soft_step(endocardium, edge))
    for muscle in np.deg2rad([rng.uniform(20, 60), rng.uniform(-80, -40)]):
        a, b = 0.68 * cavity * np.cos(muscle), 0.68 * cavity * np.sin(muscle)
        paint(
            fractions,
            "papillary",
            soft_step(disc(x - a, y - b, (4.5, 3.5), muscle) + 1.5 * ripple, edge) * (apical < 0.9),
        )


def heart_case(seed: int, index: int, size: int = 256) -> PhantomCase:
    """Case ``index`` of cohort ``seed``: 3 to 6 short-axis slices of ``size`` x ``size`` voxels over 187 mm.

    Every size shows the same patient, with other noise. Images are int16, the label is int16 with the values of
    MyoPS2020: 200 myocardium, 500 LV blood, 600 RV blood, 1220 edema, 2221 scar.
    """
    streams = common.random_streams(seed, index)
    slices = int(streams.anatomy.choice(list(SLICES)))
    grid = CenteredGrid((size, size, slices), (FIELD_OF_VIEW / size, FIELD_OF_VIEW / size, SLICES[slices]))
    edge = max(1.2, grid.spacing[0])  # surfaces cross a voxel over this many mm: partial volume

    fractions: dict[str, np.ndarray] = {}
    from_front = paint_chest(fractions, streams.anatomy, grid, edge)
    paint_heart(fractions, streams.anatomy, grid, edge)

    tissues = common.vary(streams.tissue, HEART, dict.fromkeys(HEART, 0.05))
    inversion_time = null_inversion_time(tissues["myocardium"].t1_gd, 1600) + streams.tissue.normal(0, 6)
    water = smooth_field(streams.tissue, grid, 30.0, 12.0, 5.0)
    signals = {modality: np.zeros(grid.shape, np.float32) for modality in BRIGHTEST}
    for name, fraction in fractions.items():
        look = MADE_OF.get(name, name)
        tissue = tissues[look]
        wetter = np.exp(np.float32(0.05) * water)
        textured = tissue._replace(t1=tissue.t1 * wetter, t1_gd=tissue.t1_gd * wetter, t2=tissue.t2 * wetter)
        suppression = {"lv_blood": BLOOD_LEFT, "rv_blood": BLOOD_LEFT, "fat": FAT_LEFT}.get(look, 1.0)
        for modality, signal in acquire(textured, inversion_time).items():
            signals[modality] += fraction * signal * (suppression if modality == "t2" else 1.0)

    images = {}
    coil = np.exp(-from_front / 250)  # surface coils see the front of the chest best
    for modality, signal in signals.items():
        clean = np.abs(signal) * coil / coil.mean() * common.bias_field(streams.tissue, grid, INU)
        brightest = float(acquire(tissues[BRIGHTEST[modality]], inversion_time)[modality])
        noisy = common.rician(streams.noise, clean, NOISE[modality] * brightest)
        images[modality] = common.quantize(noisy, brightest / streams.tissue.uniform(300, 900))

    heart = [sum(fractions[name] for name in names) for names in LABELS.values()]
    shares = np.stack([1 - sum(heart), *heart])
    label = np.array([0, *LABELS], np.int16)[shares.argmax(0)]

    directions, _ = np.linalg.qr(DIRECTIONS)
    directions *= np.sign((directions * DIRECTIONS).sum(0))
    affine = np.eye(4)
    affine[:3, :3] = directions * grid.spacing
    affine[:3, 3] = -affine[:3, :3] @ (np.array(grid.shape) - 1) / 2
    return PhantomCase(images, label, affine)
