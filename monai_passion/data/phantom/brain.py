"""Glioma phantom: an MNI brain, warped for each subject, with a tumor, imaged by four sequences as BraTS has them."""

from __future__ import annotations

import functools
from itertools import product
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import dijkstra
from scipy.special import ndtri

from monai_passion.data.phantom import common
from monai_passion.data.phantom.common import CenteredGrid, PhantomCase, paint, smooth_field, soft_step
from monai_passion.data.phantom.signal import (
    BRAIN,
    LESIONS,
    Tissue,
    Value,
    inversion_recovery,
    null_inversion_time,
    spin_echo,
)
from monai_passion.errors import UsageError

__all__ = ["Protocol", "Tumor", "acquire", "brain_case", "draw_protocol", "draw_tumor"]

FULL = CenteredGrid((240, 240, 155), (1.0, 1.0, 1.0))
CENTER = np.array([-119.5, 119.5, 77.0])
"""Center of a BraTS2020 volume in its own world coordinates (mm, RAS+)."""
FIELD_OF_VIEW = 180.0
"""Edge of the cube that ``size`` voxels divide: the whole head."""
SCOUT = CenteredGrid((45, 45, 45), (4.0, 4.0, 4.0))
"""Where the tumor is placed and the edema spreads."""

NOISE = 0.03
INU = 0.20
BRIGHTEST = {"t1": "wm", "t1c": "wm", "t2": "csf", "flair": "gm"}
"""The tissue whose signal the noise is relative to, as in BrainWeb."""


class Atlas(NamedTuple):
    """Maps in MNI space at 1 mm: tissue probabilities, the brain, and the depth below its surface (mm)."""

    wm: np.ndarray
    gm: np.ndarray
    brain: np.ndarray
    depth: np.ndarray
    middle: np.ndarray
    """Voxel in the middle of the brain's bounding box."""


class Tumor(NamedTuple):
    """Geometry of one glioma; lengths in mm."""

    radius: float
    """Mean radius of the tumor core."""
    stretch: tuple[float, float, float]
    enhancing: bool
    rim: float
    """Thickness of the enhancing rim about the necrosis."""
    patches: float
    """Share of the rim that does not enhance."""
    edema: float
    """How far edema travels in white matter."""
    push: float
    """How far the core's surface displaced the brain."""
    growth: float = 0.0
    """Growth of the radius since then, without displacing anything."""


class Protocol(NamedTuple):
    """Times of the sequences in ms."""

    t1_tr: float = 600
    t1_te: float = 12
    t2_tr: float = 5000
    t2_te: float = 100
    flair_tr: float = 9000
    flair_te: float = 90
    flair_ti: float = null_inversion_time(BRAIN["csf"].t1, 9000)


@functools.cache
def atlas() -> Atlas:
    """The MNI152 (2009a, symmetric) maps that the nilearn package carries.

    Raises:
        UsageError: nilearn is not installed.
    """
    try:
        from nilearn import datasets
    except ImportError as error:
        raise UsageError('the brain phantom needs nilearn; pip install "monai_passion[phantom]"') from error
    wm, gm, mask = (
        np.asarray(load(resolution=1).dataobj, np.float32)
        for load in (
            datasets.load_mni152_wm_template,
            datasets.load_mni152_gm_template,
            datasets.load_mni152_brain_mask,
        )
    )
    box = ndimage.find_objects(mask.astype(int))[0]
    depth = ndimage.distance_transform_edt(mask[::2, ::2, ::2], sampling=2.0)
    return Atlas(
        wm,
        gm,
        ndimage.gaussian_filter(mask, 1.5),
        depth.astype(np.float32),
        np.array([(side.start + side.stop - 1) / 2 for side in box]),
    )


def draw_tumor(rng: np.random.Generator) -> Tumor:
    """Size and composition of a glioma; about one in ten has no enhancing part, as in BraTS."""
    radius = float(np.clip(19 * np.exp(0.25 * rng.standard_normal()), 11, 30))
    a, b = np.exp(0.15 * rng.standard_normal(2))
    return Tumor(
        radius=radius,
        stretch=(a, b, 1 / (a * b)),
        enhancing=bool(rng.random() >= 0.1),
        rim=float(np.clip(rng.uniform(0.2, 0.45) * radius, 3, 8)),
        patches=float(rng.beta(1, 4)),
        edema=float(np.clip(18 * np.exp(0.45 * rng.standard_normal()), 5, 32)),
        push=float(rng.uniform(0.05, 0.3) * radius),
    )


def draw_protocol(rng: np.random.Generator) -> Protocol:
    """One scanner's times, from the ranges in clinical use; the FLAIR inversion time nulls the CSF to 1 %."""
    tr = rng.uniform(8000, 10000)
    return Protocol(
        t1_tr=rng.uniform(500, 700),
        t1_te=rng.uniform(8, 15),
        t2_tr=rng.uniform(4000, 6000),
        t2_te=rng.uniform(80, 120),
        flair_tr=tr,
        flair_te=rng.uniform(80, 120),
        flair_ti=null_inversion_time(BRAIN["csf"].t1, tr) * rng.uniform(0.99, 1.01),
    )


def acquire(pd: Value, t1: Value, t1_gd: Value, t2: Value, protocol: Protocol) -> dict[str, np.ndarray]:
    """The signed signal of tissue under each of the four sequences; T2 and FLAIR see the same tissue."""
    p = protocol
    return {
        "flair": inversion_recovery(pd, t1, t2, tr=p.flair_tr, te=p.flair_te, ti=p.flair_ti),
        "t1c": spin_echo(pd, t1_gd, t2, tr=p.t1_tr, te=p.t1_te),
        "t1": spin_echo(pd, t1, t2, tr=p.t1_tr, te=p.t1_te),
        "t2": spin_echo(pd, t1, t2, tr=p.t2_tr, te=p.t2_te),
    }


def draw_tissues(rng: np.random.Generator) -> dict[str, Tissue]:
    """One subject's tissues; lesions vary more from one patient to the next than normal tissue."""
    return common.vary(rng, BRAIN, {name: 0.10 if name in LESIONS else 0.03 for name in BRAIN})


class Subject(NamedTuple):
    """The differences of one head from the atlas, and its tumor."""

    matrix: np.ndarray
    """From mm about the center of the volume to atlas voxels about the center of the atlas."""
    fields: int
    """Seed of the smooth warp and of the other random fields of the anatomy."""
    atrophy: float
    """Width of the sulci and ventricles, 1 on average."""
    tumor: Tumor
    center: tuple[float, ...]

    def stream(self, purpose: int) -> np.random.Generator:
        """Random numbers of a field, the same on every grid."""
        return np.random.default_rng([self.fields, purpose])


def atlas_points(subject: Subject, grid: CenteredGrid, mass_effect: bool = True) -> np.ndarray:
    """Atlas voxel that each grid point shows, (3, *shape)."""
    rng = subject.stream(0)
    warp = [3.2 * smooth_field(rng, grid, 55.0) + 1.5 * smooth_field(rng, grid, 20.0) for _ in range(3)]

    def points(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        rows = zip(subject.matrix, atlas().middle, warp, strict=True)
        return np.stack([(a * x + b * y + c * z + m).astype(np.float32) + w for (a, b, c), m, w in rows])

    if not mass_effect:
        return points(*grid.axes)
    # What is now at distance r was at r - push(r) before the tumor grew; the skull does not give way.
    depth = sample(atlas().depth, points(*grid.axes) / 2)
    offset = [axis - c for axis, c in zip(grid.axes, subject.center, strict=True)]
    r = np.sqrt(sum(o**2 for o in offset)) + np.float32(1e-3)
    radius, push = subject.tumor.radius, subject.tumor.push
    shrink = push * np.minimum(r / radius, np.exp((radius - r) / 25)) * np.minimum(depth / 15, 1) / r
    return points(*(axis - shrink * o for axis, o in zip(grid.axes, offset, strict=True)))


def sample(volume: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Linear interpolation at voxel coordinates; 0 outside."""
    return ndimage.map_coordinates(volume, points, order=1, output=np.float32)


def normal_tissue(subject: Subject, points: np.ndarray, detail: np.ndarray) -> dict[str, np.ndarray]:
    """Fractions of WM, GM and CSF at atlas points inside the brain.

    The atlas is an average of many people and therefore blurred. Its probabilities are sharpened, and ``detail`` (a
    random field) shifts the balance, which gives each subject its own gyri.
    """
    wm, gm = sample(atlas().wm, points), sample(atlas().gm, points)
    csf = np.clip(1 - wm - gm, 0, 1) * subject.atrophy
    odds = np.stack([wm, gm, csf]) ** 2.5 + np.float32(1e-6)
    odds *= np.exp(np.float32(0.6) * np.stack([detail, -detail, -detail]))
    return dict(zip(("wm", "gm", "csf"), odds / odds.sum(0), strict=True))


def travel_time(speed: np.ndarray, sources: np.ndarray, spacing: float) -> np.ndarray:
    """Time to reach each voxel of a lattice from the nearest source, at a speed (mm per unit of time) per voxel.

    Shortest path over the 26 neighbors, so that the region stays connected and goes around obstacles.
    """
    nodes = np.arange(speed.size).reshape(speed.shape)
    rows, columns, costs = [], [], []
    for step in product((-1, 0, 1), repeat=3):
        if step <= (0, 0, 0):
            continue
        here = nodes[tuple(slice(max(-d, 0), n - max(d, 0)) for d, n in zip(step, speed.shape, strict=True))].ravel()
        there = nodes[tuple(slice(max(d, 0), n - max(-d, 0)) for d, n in zip(step, speed.shape, strict=True))].ravel()
        rows.append(here)
        columns.append(there)
        costs.append(spacing * np.linalg.norm(step) * (1 / speed.flat[here] + 1 / speed.flat[there]) / 2)
    edges = (np.concatenate(rows), np.concatenate(columns))
    graph = coo_matrix((np.concatenate(costs), edges), shape=(speed.size, speed.size)).tocsr()
    time = dijkstra(graph, directed=False, indices=nodes[sources], min_only=True, limit=60.0)
    return np.minimum(time, 60.0).reshape(speed.shape).astype(np.float32)


def core_distance(subject: Subject, grid: CenteredGrid) -> np.ndarray:
    """Signed distance (mm, roughly) to the lumpy surface of the tumor core; negative inside."""
    rng = subject.stream(1)
    offset = (axis - c for axis, c in zip(grid.axes, subject.center, strict=True))
    r = np.sqrt(sum((o / s) ** 2 for o, s in zip(offset, subject.tumor.stretch, strict=True)))
    lumps = 0.75 * smooth_field(rng, grid, 20.0) + 0.5 * smooth_field(rng, grid, 9.0)
    return r - (subject.tumor.radius + subject.tumor.growth) * (1 + 0.28 * lumps)


def grow(subject: Subject, share: float) -> Subject:
    """The same head with a tumor core that is larger by this share of its volume within the brain."""
    brain = sample(atlas().brain, atlas_points(subject, SCOUT)) > 0.6
    distance = core_distance(subject, SCOUT)
    next_one = core_distance(subject._replace(tumor=subject.tumor._replace(growth=1.0)), SCOUT)
    needed = np.sort((distance / (distance - next_one))[brain])  # the growth with which the core reaches a voxel
    growth = needed[round((1 + share) * np.count_nonzero(needed < 0))]
    return subject._replace(tumor=subject.tumor._replace(growth=float(growth)))


def place_tumor(subject: Subject, rng: np.random.Generator) -> Subject:
    """Put the center into cerebral white matter, deep enough for the tumor's size."""
    points = atlas_points(subject, SCOUT, mass_effect=False)
    x, _, z = (p - m for p, m in zip(points, atlas().middle, strict=True))
    deep = sample(atlas().depth, points / 2) > 0.8 * subject.tumor.radius
    weight = sample(atlas().wm, points) * (deep & (z > -15) & (np.abs(x) > 14))
    chosen = np.unravel_index(rng.choice(weight.size, p=weight.ravel() / weight.sum(dtype=float)), weight.shape)
    jitter = rng.uniform(-2, 2, 3)
    return subject._replace(
        center=tuple(float(axis.ravel()[i] + j) for axis, i, j in zip(SCOUT.axes, chosen, jitter, strict=True))
    )


def draw_subject(rng: np.random.Generator) -> Subject:
    """A head with its tumor."""
    scale = 0.92 * np.exp(0.03 * rng.standard_normal(3))
    a, b, c = np.deg2rad(4) * rng.standard_normal(3)
    turn = np.array([[1, -c, b], [c, 1, -a], [-b, a, 1]])
    # BraTS arrays run to the left and to the back, the atlas to the right and to the front.
    matrix = turn / scale * np.array([-1, -1, 1])
    subject = Subject(
        matrix,
        fields=int(rng.integers(2**63)),
        atrophy=float(np.exp(0.25 * rng.standard_normal())),
        tumor=draw_tumor(rng),
        center=(0, 0, 0),
    )
    return place_tumor(subject, rng)


def spread_edema(subject: Subject) -> np.ndarray:
    """Travel time of edema from the core on the `SCOUT` lattice: fast in WM, slow in GM, blocked by CSF and skull."""
    points = atlas_points(subject, SCOUT)
    inside = sample(atlas().brain, points)
    tissue = normal_tissue(subject, points, np.zeros(SCOUT.shape, np.float32))
    speed = inside * (tissue["wm"] + 0.3 * tissue["gm"]) + 0.02
    sources = core_distance(subject, SCOUT) < 0
    sources[tuple(np.abs(axis.ravel() - c).argmin() for axis, c in zip(SCOUT.axes, subject.center, strict=True))] = True
    return travel_time(speed, sources, SCOUT.spacing[0])


def tissue_fractions(
    subject: Subject, grid: CenteredGrid, healthy: bool = False
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The brain's mask on the grid, and what each of its n voxels is made of: {tissue: (n,)}, of sum 1."""
    points = atlas_points(subject, grid, mass_effect=not healthy)
    brain = sample(atlas().brain, points) > 0.6
    points = points[:, brain]
    tumor, rng = subject.tumor, subject.stream(2)

    def field(*knots: float) -> np.ndarray:
        return smooth_field(rng, grid, *knots)[brain]

    fractions = normal_tissue(subject, points, field(16.0, 9.0))
    # Two random surfaces meet in random curves: vessels, where there is CSF about them.
    vessels = np.exp(-(field(25.0) ** 2 + field(25.0) ** 2) / (2 * 0.12**2))
    paint(fractions, "vessel", 0.9 * vessels * (1 - fractions["wm"]))

    if healthy:
        return brain, fractions
    core = core_distance(subject, grid)[brain]
    scout = [(axis / s + (n - 1) / 2) for axis, s, n in zip(grid.axes, SCOUT.spacing, SCOUT.shape, strict=True)]
    time = sample(spread_edema(subject), np.stack(np.broadcast_arrays(*scout))[:, brain])
    wet = soft_step(np.maximum(time, core) - tumor.edema * (1 + 0.25 * field(14.0)), 5.0)
    paint(fractions, "ed", wet * (fractions["wm"] + 0.4 * fractions["gm"]))

    infiltration = np.maximum(0, 2.5 * field(16.0))
    paint(fractions, "net", soft_step(core - infiltration, 2.0))
    if tumor.enhancing:
        necrosis = soft_step(core + tumor.rim * np.exp(0.5 * field(11.0)), 1.5)
        patchy = soft_step(5.0 * (ndtri(tumor.patches) - field(12.0)), 1.5)
        paint(fractions, "et", soft_step(core, 1.5) * patchy)
        paint(fractions, "ncr", necrosis)
    return brain, fractions


def mix_signals(
    fractions: dict[str, np.ndarray],
    tissues: dict[str, Tissue],
    protocol: Protocol,
    water: np.ndarray,
    uptake: np.ndarray,
) -> dict[str, np.ndarray]:
    """Signal of each voxel: the sum over its tissues, each with texture.

    One random field, ``water``, moves T1 and T2 of a tissue together in all sequences; ``uptake`` moves its contrast.
    """
    signals = {modality: np.zeros_like(water) for modality in BRIGHTEST}
    for name, fraction in fractions.items():
        there = fraction > 0
        tissue, cv = tissues[name], np.float32(0.10 if name in LESIONS else 0.03)
        wetter = np.exp(cv * water[there])
        t1 = tissue.t1 * wetter
        t1_gd = 1 / (1 / t1 + tissue.uptake * np.exp(2 * cv * uptake[there]))
        for modality, signal in acquire(tissue.pd, t1, t1_gd, tissue.t2 * wetter, protocol).items():
            signals[modality][there] += fraction[there] * signal
    return signals


def brain_case(
    seed: int, index: int, size: int = FULL.shape[0], healthy: bool = False, growth: float = 0.0
) -> PhantomCase:
    """Case ``index`` of cohort ``seed``: ``size``^3 voxels over the whole head, or for 240 the grid of BraTS2020.

    That is 240 x 240 x 155 voxels of 1 mm.

    Every size shows the same patient, with other noise. Images are int16, exactly 0 outside the brain and positive
    inside; the label is uint8 with the values of BraTS2020. With ``healthy`` there is no tumor, and the label is 0.
    With ``growth`` it is the same head after its tumor core has grown by that share of its volume.

    Raises:
        UsageError: nilearn is not installed.
    """
    streams = common.random_streams(seed, index)
    grid = FULL if size == FULL.shape[0] else CenteredGrid((size,) * 3, (FIELD_OF_VIEW / size,) * 3)
    factor = 2 if grid.spacing[0] > 1.5 else 1  # coarse voxels average finer ones: partial volume
    fine = grid.finer(factor)

    subject = draw_subject(streams.anatomy)
    subject = grow(subject, growth) if growth else subject
    protocol = draw_protocol(streams.tissue)
    tissues = draw_tissues(streams.tissue)
    inside, fractions = tissue_fractions(subject, fine, healthy)
    water = smooth_field(streams.tissue, fine, 16.0, 8.0, 4.0)[inside]
    uptake = smooth_field(streams.tissue, fine, 16.0, 8.0)[inside]
    signals = mix_signals(fractions, tissues, protocol, water, uptake)

    def measure(values: np.ndarray) -> np.ndarray:
        volume = np.zeros(fine.shape, np.float32)
        volume[inside] = values
        return common.block_mean(volume, factor)

    share = measure(np.ones_like(water))
    brain = share > 0.5
    images = {}
    for modality, signal in signals.items():
        clean = measure(signal) / np.maximum(share, 0.5) * common.bias_field(streams.tissue, grid, INU)
        t = tissues[BRIGHTEST[modality]]
        brightest = float(acquire(t.pd, t.t1, t.t1_gd, t.t2, protocol)[modality])
        noisy = common.rician(streams.noise, clean, NOISE * brightest)
        unit = brightest / streams.tissue.uniform(400, 1200)  # the scanner's arbitrary units
        images[modality] = np.where(brain, np.maximum(common.quantize(noisy, unit), 1), 0).astype(np.int16)

    classes = {0: ("wm", "gm", "csf", "vessel"), 1: ("ncr", "net"), 2: ("ed",), 4: ("et",)}
    shares = [measure(sum(fractions.get(name, 0 * water) for name in names)) for names in classes.values()]
    label = np.where(brain, np.array(list(classes), np.uint8)[np.argmax(shares, axis=0)], 0).astype(np.uint8)

    x, y, z = grid.spacing
    affine = np.diag([-x, -y, z, 1.0])
    affine[:3, 3] = CENTER - affine[:3, :3] @ (np.array(grid.shape) - 1) / 2
    return PhantomCase(images, label, affine)
