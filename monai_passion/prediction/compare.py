"""Compare two examinations of one patient: what grew, what shrank, what is new."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray
from scipy import ndimage

from monai_passion import NOTICE
from monai_passion.data.dicom import as_nifti, folder_for_conversions, sums_of
from monai_passion.data.geometry import moved_onto
from monai_passion.data.nifti import MAX_VOXELS, Volume, read_volume
from monai_passion.data.plausibility import SAME_HEAD, STRIPPED
from monai_passion.errors import InputError
from monai_passion.prediction.output.diameters import components
from monai_passion.system.files import read_json
from monai_passion.system.schemas import check_schema

__all__ = [
    "Examination",
    "change",
    "compare",
    "lesion_changes",
    "open_examination",
    "rano_category",
]

MEASURABLE_MM = 10.0
"""Least length (mm) of both diameters of a measurable lesion."""
TARGETS = 2
"""Number of the largest measurable lesions that are summed."""
CUT = 0.05
"""Share of a lesion that may lie outside the other image, since registration rotates heads; beyond it, its change is
unknown."""
CONTRAST = "t1c"
"""The sequence that shows what RANO measures."""
PREFERRED = (CONTRAST, "flair", "t1", "t2")
"""The sequence of both examinations that they are registered by and shown in."""


class Examination(NamedTuple):
    """A patient at one time: what `predict_patient` wrote, and the images it was made from."""

    report: Mapping[str, Any]
    labels: Volume
    images: Mapping[str, Volume]
    patient: str = ""
    """The patient by the DICOM headers; "" if they do not tell."""


def open_examination(
    folder: Path, files: Mapping[str, Path] | None = None, max_voxels: int = MAX_VOXELS
) -> Examination:
    """Read the result of ``predict`` in ``folder``, and its images.

    Args:
        folder: with ``report.json`` and ``segmentation.nii.gz``.
        files: modality -> NIfTI file or DICOM series; None for the files that the report names (``predict
            --keep-names``).

    Raises:
        InputError: no such files, or others than at that time; or a report that does not fit its schema or does not
            name the images.
    """
    path = folder / "report.json"
    report = read_json(path, "run predict for it again")
    check_schema(report, "report", path)
    paths, used = dict(files or report.get("files", {})), report["modalities"]["used"]
    if missing := [m for m in used if m not in paths]:
        raise InputError(
            f"{folder}/report.json does not say where its images are ({', '.join(missing)}); run predict again with "
            "--keep-names, or give the folder of the images in place of that of the result"
        )
    given = {m: Path(paths[m]) for m in used}
    with folder_for_conversions(given) as converted:
        nifti, series, _ = as_nifti(given, converted, max_voxels)
        now = sums_of(given, series)
        if others := [m for m, known in report.get("files_sha256", {}).items() if now.get(m, known) != known]:
            raise InputError(
                f"{paths[others[0]]} is not the image that {folder} was segmented from ({others[0]}): its content has "
                "changed; run predict for that day's images again"
            )
        images = {m: read_volume(nifti[m], max_voxels=max_voxels) for m in used}
    patient = next((one.patient for one in series.values()), "")
    return Examination(report, read_volume(folder / "segmentation.nii.gz"), images, patient)


class Comparison(NamedTuple):
    """What `compare` finds."""

    content: dict[str, Any]
    """Of ``comparison.json``."""
    views: dict[str, NDArray[Any]]
    """On the grid of the later segmentation: ``before`` and ``after``, the images, and ``labels_before``."""
    findings: list[dict[str, str]]
    """Those of the two together; ``content`` has those of each day before them."""


def compare(before: Examination, after: Examination) -> Comparison:
    """What changed between two examinations; the earlier one is registered rigidly onto the later one.

    Volumes and diameters are those of each segmentation on its own grid: registration serves to tell which lesion is
    which, and to show both at one place.

    Raises:
        InputError: no sequence that both have, segmentations of different tasks, or two patients by DICOM headers.
    """
    from monai_passion.data.registration import has_enough_slices, moved_mm, rigid

    if before.patient and after.patient and before.patient != after.patient:
        raise InputError(
            "the two examinations are of different patients by the DICOM headers of their images (PatientID, "
            "PatientName, PatientBirthDate); compare two of one patient"
        )

    if [row["name"] for row in before.report["regions"]] != [row["name"] for row in after.report["regions"]]:
        raise InputError("the two results are of different tasks; compare two of the same bundle")
    references = {report["modalities"]["reference"] for report in (before.report, after.report)}
    order = (*(references if len(references) == 1 else ()), *PREFERRED, *after.images)
    shared = [m for m in order if m in before.images and m in after.images]
    if not shared:
        raise InputError(
            f"the two examinations share no sequence ({', '.join(before.images)}; {', '.join(after.images)}), so that "
            "one cannot be registered onto the other"
        )
    name = shared[0]
    before, after = _in_place(before, name), _in_place(after, name)
    images = after.images[name], before.images[name]
    registered = has_enough_slices(*images)
    motion = rigid(*images) if registered else np.eye(4)
    labels_before = np.rint(moved_onto(before.labels, after.labels, motion, order=0)).astype(np.uint16)
    views: dict[str, NDArray[Any]] = {
        "before": moved_onto(before.images[name], after.labels, motion, order=1),
        "after": moved_onto(after.images[name], after.labels, np.eye(4), order=1),
        "labels_before": labels_before,
    }
    both = _extent(before.images[name], after.labels, motion) & _extent(after.images[name], after.labels, np.eye(4))
    overlap = _overlap(views["before"], views["after"], both)
    seen_before = _extent(before.labels, after.labels, motion)
    regions = []
    for first, second in zip(before.report["regions"], after.report["regions"], strict=True):
        was, now = (np.isin(np.rint(day.labels.data), second["values"]) for day in (before, after))
        earlier, outside = _numbered(was, before.labels, after.labels, motion)
        lesions = lesion_changes(first["lesions"], second["lesions"], earlier, now, outside, seen_before)
        regions.append(
            {
                "name": second["name"],
                "title": second["title"],
                "volume_ml": change(first["volume_ml"], second["volume_ml"]),
                "product_mm2": change(_sum(first["lesions"]), _sum(second["lesions"])),
                "lesions": lesions,
            }
        )
    lacking = [
        when for when, day in (("before", before), ("after", after)) if CONTRAST not in day.report["modalities"]["used"]
    ]
    enhancing = min(regions, key=lambda row: len(_values(after.report, row["name"])))
    findings = [*_unregistered(registered), *_apart(name, overlap), *_unseen(regions), *_uneven(before, after)]
    content = {
        "notice": NOTICE,
        "bundle": after.report["bundle"],
        "shown": name,
        "moved_mm": round(moved_mm(motion, after.images[name]), 2),
        "used": {"before": before.report["modalities"]["used"], "after": after.report["modalities"]["used"]},
        "regions": regions,
        "lesions_of": enhancing["name"],
        "category": {"region": enhancing["name"], **rano_category(enhancing, lacking)}
        if _is_for_rano(after.report) and overlap >= SAME_HEAD
        else None,
        "findings": [*_of_the_days(before, after), *findings],
    }
    return Comparison(content, views, findings)


def _of_the_days(before: Examination, after: Examination) -> list[dict[str, str]]:
    """What was doubtful about either day by itself."""
    return [
        {"level": finding["level"], "text": f"{when}: {finding['text']}"}
        for when, day in (("before", before), ("after", after))
        for finding in day.report["findings"]
        if finding["level"] != "note"
    ]


def _numbered(
    region: NDArray[np.bool_], own: Volume, grid: Volume, motion: NDArray[np.float64]
) -> tuple[NDArray[np.float32], list[float]]:
    """Which component of a region is where on another grid (1 for the largest), and the part of each outside that."""
    numbers, outside, inside = np.zeros(own.shape, np.float32), [], []
    onto = np.linalg.inv(grid.affine) @ np.linalg.inv(motion) @ own.affine
    for number, part in enumerate(components(region), 1):
        numbers[tuple(part.T)] = number
        places = np.rint(apply_affine(onto, part)).astype(int)
        there = ((places >= 0) & (places < grid.shape)).all(axis=1)
        outside.append(float(1 - there.mean()))
        inside.append(places[there])
    moved = moved_onto(own._replace(data=numbers), grid, motion, order=0)
    for number, places in enumerate(inside, 1):
        if not (moved == number).any():  # it lies between the middles of thick slices
            moved[tuple(places.T)] = number
    return moved, outside


def _extent(volume: Volume, grid: Volume, motion: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Where a volume has voxels, on another grid."""
    whole = volume._replace(data=np.ones(volume.shape, np.float32))
    return np.asarray(moved_onto(whole, grid, motion, order=0) > 0)


def _overlap(a: NDArray[Any], b: NDArray[Any], both: NDArray[np.bool_]) -> float:
    """Intersection over union of what two images show where ``both`` see; 1 where one fills that: it says nothing."""
    shown = [(image != 0) & both for image in (a, b)]
    if both.any() and max(mask.sum() for mask in shown) > STRIPPED * both.sum():
        return 1.0
    return float((shown[0] & shown[1]).sum() / max((shown[0] | shown[1]).sum(), 1))


def _apart(name: str, overlap: float) -> list[dict[str, str]]:
    if overlap >= SAME_HEAD:
        return []
    text = (
        f"the {name} of the two days overlap by {100 * overlap:.0f} % only after registration: one does not lie on the "
        "other, so which lesions are new or gone is not known; are they of one patient?"
    )
    return [{"level": "unusable", "text": text}]


def _unregistered(registered: bool) -> list[dict[str, str]]:
    if registered:
        return []
    text = (
        "the images have too few slices to be registered: the two days are laid on each other by their headers alone, "
        "so which lesions are new or gone is not sure"
    )
    return [{"level": "warning", "text": text}]


def _unseen(regions: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    texts = []
    for kind, where in (("unseen", "outside"), ("cut", "partly outside")):
        if titles := [row["title"] for row in regions if any(lesion["kind"] == kind for lesion in row["lesions"])]:
            texts.append(
                f"a lesion ({', '.join(titles)}) lies {where} the image of the other day: what it was or became is not "
                "known, and volumes of the two days are not of the same place"
            )
    return [{"level": "warning", "text": text} for text in texts]


def _in_place(examination: Examination, name: str) -> Examination:
    """With the image ``name`` where its segmentation is: onto the reference, where it was registered for that."""
    from monai_passion.data.registration import rigid

    used, images = examination.report["modalities"], examination.images
    reference = used["reference"]
    if name == reference or not used.get("registered") or reference not in images:
        return examination
    image = images[name]
    motion = rigid(images[reference], image)
    moved = image._replace(affine=np.linalg.inv(motion) @ image.affine)
    return examination._replace(images={**images, name: moved})


def _uneven(before: Examination, after: Examination) -> list[dict[str, str]]:
    """Other sequences, weights or bundles on the two days change volumes too."""
    texts = []
    if list(before.images) != list(after.images):
        texts.append(
            f"the sequences differ ({', '.join(before.images)} before, {', '.join(after.images)} after); a part of the "
            "change may come from that"
        )
    if _weights(before) != _weights(after):
        texts.append("the two were segmented by different weights; a part of the change may come from that")
    return [{"level": "warning", "text": text} for text in texts]


def _weights(examination: Examination) -> list[str]:
    """SHA-256 of all that were averaged, in any order."""
    report = examination.report
    return sorted([report["weights"]["sha256"], *report["settings"].get("ensemble", [])])


def _values(report: Mapping[str, Any], name: str) -> Sequence[int]:
    return next(row["values"] for row in report["regions"] if row["name"] == name)


def change(before: float, after: float) -> dict[str, float | None]:
    """Both numbers, their difference, and the difference in percent of the first; None if the first is 0."""
    percent = round(100 * (after - before) / before, 1) if before else None
    return {"before": before, "after": after, "difference": round(after - before, 4), "percent": percent}


def _measurable(lesions: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    found = [row for row in lesions if min(row["longest_mm"], row["perpendicular_mm"]) >= MEASURABLE_MM]
    return sorted(found, key=lambda row: -row["product_mm2"])


def _sum(lesions: Sequence[Mapping[str, Any]]) -> float:
    """The sum of the products of the largest measurable lesions, mm^2."""
    return round(sum(row["product_mm2"] for row in _measurable(lesions)[:TARGETS]), 2)


def lesion_changes(
    before: Sequence[Mapping[str, Any]],
    after: Sequence[Mapping[str, Any]],
    earlier: NDArray[Any],
    where_after: NDArray[np.bool_],
    outside_before: Sequence[float],
    seen_before: NDArray[np.bool_] | None = None,
) -> list[dict[str, Any]]:
    """Each lesion of the later examination with the earlier ones it overlaps, then those that are gone or not seen.

    Lesions that overlap the same one at the other time are one lesion, in parts.

    Args:
        before: rows of `find_lesions`, the largest first.
        after: likewise.
        earlier: (X, Y, Z), on the later grid: the number of the earlier lesion, 1 for the first of ``before``; larger
            numbers for lesions without a row; 0 for none.
        where_after: (X, Y, Z), the later region.
        outside_before: for each of ``before``, its share (0 to 1) outside the later grid.
        seen_before: (X, Y, Z), the part of the later grid that the earlier image shows; None for all of it.

    Returns:
        ``before`` and ``after`` (rows of the largest part, or None), ``parts`` (how many there are at each time),
        ``kind``, and the change of volume of all parts. The kind is ``"new"`` for what overlaps nothing earlier,
        ``"gone"``, ``"both"``, ``"unseen"`` for what lies outside the other image, its volume there being None,
        or ``"cut"`` for what does in part (`CUT`): how it changed is not known, and the differences are None.
    """

    def beneath(where: NDArray[np.bool_]) -> tuple[bool, set[int]]:
        """Whether anything earlier is there, and which of ``before``."""
        numbers = {int(n) for n in np.unique(earlier[ndimage.binary_dilation(where, iterations=2)])} - {0}
        return bool(numbers), {n - 1 for n in numbers if n <= len(before)}

    cut_before = {k for k, outside in enumerate(outside_before) if outside > CUT}
    groups: list[_Group] = []
    for k, part in zip(range(len(after)), components(where_after), strict=False):
        own = np.zeros(where_after.shape, bool)
        own[tuple(part.T)] = True
        there, same = beneath(own)
        seen = 1.0 if seen_before is None else float(seen_before[own].mean())
        if there:
            kind = "cut" if seen < 1 - CUT or same & cut_before else "both"
        else:
            kind = "new" if seen > 0.5 else "cut" if seen else "unseen"
        group = _Group([k], same, kind)
        for other in [one for one in groups if one.before & same]:
            groups.remove(other)
            kind = "cut" if "cut" in (kind, other.kind) else "both"
            group = _Group(sorted(other.after + group.after), other.before | group.before, kind)
        groups.append(group)
    rows = []
    for group in sorted(groups, key=lambda group: group.after):
        old, new = sorted(group.before), group.after
        largest = {"before": before[old[0]] if old else None, "after": after[new[0]]}
        parts = {"before": len(old), "after": len(new)}
        first, second = (sum(day[k]["volume_ml"] for k in own) for day, own in ((before, old), (after, new)))
        volume = _change(group.kind, first, second, "before")
        rows.append({"kind": group.kind, **largest, "parts": parts, "volume_ml": volume})
    matched = beneath(where_after)[1]
    for k, row in enumerate(before):
        if k not in matched:
            facts = {"before": row, "after": None, "parts": {"before": 1, "after": 0}}
            kind = "gone" if k not in cut_before else "unseen" if outside_before[k] == 1 else "cut"
            rows.append({"kind": kind, **facts, "volume_ml": _change(kind, row["volume_ml"], 0.0, "after")})
    return rows


class _Group(NamedTuple):
    """One lesion, by the numbers of its parts on each day, and its kind."""

    after: list[int]
    before: set[int]
    kind: str


def _change(kind: str, before: float, after: float, unseen: str) -> dict[str, float | None]:
    """`change`, but for what is unknown of a lesion that one image does not show, or not the whole of."""
    known = change(before, after)
    if kind in ("unseen", "cut"):
        known |= {"difference": None, "percent": None}
    return {**known, unseen: None} if kind == "unseen" else known


def _is_for_rano(report: Mapping[str, Any]) -> bool:
    """Whether a result is of a brain whose task knows images with contrast agent, in which tumor enhances."""
    known = [*report["modalities"]["used"], *report["modalities"]["absent"]]
    return bool(report["task"]["anatomy"] == "brain" and CONTRAST in known)


def rano_category(region: Mapping[str, Any], lacking: Sequence[str] = ()) -> dict[str, str]:
    """The category by RANO's thresholds for the sum of products, and the reason.

    RANO (Wen et al., J Clin Oncol 2010 and 2023): gone is complete response, 50 % less partial response, 25 % more or
    a new measurable lesion progression. It takes more than two segmentations: see ``caveat``.

    Args:
        region: a row of ``comparison.json``.
        lacking: the days without T1c, in which enhancing tumor cannot be seen.
    """
    product, volume = region["product_mm2"], region["volume_ml"]
    new = [row for row in region["lesions"] if row["kind"] == "new" and _measurable([row["after"]])]
    if lacking:
        category, why = "not comparable", f"without T1c ({' and '.join(lacking)}) enhancing tumor cannot be seen"
    elif any(row["kind"] in ("unseen", "cut") for row in region["lesions"]):
        category, why = "not comparable", "a lesion lies outside the image of the other day, or a part of it"
    elif new:
        category, why = "progression", f"{len(new)} new measurable lesion(s)"
    elif product["before"] == 0 and product["after"] == 0:
        category, why = "not measurable", "no lesion with two diameters of at least 10 mm at either time"
    elif volume["after"] == 0:
        category, why = "complete response", "nothing of it is left"
    elif product["before"] == 0:
        category, why = "progression", "a lesion has become measurable"
    elif product["after"] >= 1.25 * product["before"]:
        category, why = "progression", f"sum of products {product['percent']:+.1f} %, 25 % or more"
    elif product["after"] <= 0.5 * product["before"]:
        category, why = "partial response", f"sum of products {product['percent']:+.1f} %, 50 % or more less"
    else:
        category, why = "stable", f"sum of products {product['percent']:+.1f} %, between -50 and +25 %"
    caveat = (
        "Computed from two segmentations alone, not a judgment: RANO also asks for the best earlier examination, "
        "steroids, the clinical state, what does not enhance, and a confirming examination."
    )
    return {"category": category, "why": why, "caveat": caveat}
