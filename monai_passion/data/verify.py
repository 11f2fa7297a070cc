"""Is a folder of patients fit for a training or an evaluation? Every problem found, before anything is computed."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from monai_passion.data.labels import Convention, check_values, find_convention, values_in, whole_numbers
from monai_passion.data.layouts import Case, Cohort, cube_items, doubtful, find_cohort, guess_task, not_used
from monai_passion.data.naming import LABEL
from monai_passion.data.nifti import Header, Volume, check_same_grid, read_header, read_volumes, same_grid
from monai_passion.data.patient import is_refused, judge_coverage, judge_volume
from monai_passion.data.plausibility import check_images
from monai_passion.data.splits import SPLITS, doubtful_patients, patient_of
from monai_passion.errors import InputError
from monai_passion.system.files import sha256
from monai_passion.tasks import Task, load_task

__all__ = ["Problem", "Verdict", "print_problems", "verify_cohort", "verify_datalist"]


logger = logging.getLogger(__name__)

THREADS = min(os.cpu_count() or 1, 8)
MIDDLE = 2**16
_File = tuple[Case, str, Path]


class Problem(NamedTuple):
    """A problem that a user should correct or know."""

    level: str
    """``"error"``: a training or an evaluation stops at it; ``"warning"``: it may spoil one."""
    kind: str
    """``name``, ``file``, ``geometry``, ``image``, ``label``, ``duplicate``, ``patient``."""
    case: str
    """"" for the whole cohort."""
    text: str
    """One line: what, which file, what to do."""


class Verdict(NamedTuple):
    """The cases, labels and problems of a folder."""

    task: Task
    layout: str
    cases: tuple[Case, ...]
    labels: Convention | None
    """None if it cannot be found; a problem says so."""
    problems: tuple[Problem, ...]
    unused: tuple[tuple[Path, str], ...]
    patients: Mapping[str, str]
    """Case -> patient."""

    @property
    def errors(self) -> list[Problem]:
        return [problem for problem in self.problems if problem.level == "error"]

    def to_json(self, folder: Path) -> dict[str, Any]:
        return {
            "task": self.task.name,
            "layout": self.layout,
            "labels": self.labels.to_json() if self.labels else None,
            "cases": [
                {
                    "case": case.name,
                    "patient": self.patients[case.name],
                    "files": {m: [str(path.relative_to(folder)) for path in paths] for m, paths in case.files.items()},
                }
                for case in self.cases
            ],
            "problems": [problem._asdict() for problem in self.problems],
            "unused": [{"file": str(path.relative_to(folder)), "why": why} for path, why in self.unused],
        }


def verify_cohort(
    folder: str | os.PathLike[str],
    task: str | None = None,
    layout: str = "auto",
    *,
    labels: str | None = None,
    patient_pattern: str | None = None,
    labeled: bool = True,
    policy: str = "strict",
    voxels: bool = True,
) -> Verdict:
    """Find the problems of a folder of patients; files are only read.

    Checks of the folder: the layout, unused files, two files for a sequence, the same image twice in one patient or in
    two, and names that may hide several examinations of a patient. Checks of each file: whether it can be read, lies on
    the grid of the patient's other files and holds an image; for labels, the values and whether there are any. Checks
    of a patient's images together: whether one shows less than the others and, for heads other than cubes, those of
    `check_images`.

    Args:
        folder: of the patients.
        task, layout, labels, patient_pattern: see `datalists.make_datalist`.
        labeled: whether a case without label is an error if others have one.
        policy: that of loading the files, see `monai_passion.data.patient.POLICIES`: problems that "repair" mends are
            warnings.
        voxels: also read the voxels of images; else only headers and labels, which is quick.
        progress: called with the share that is done.

    Raises:
        InputError: it is not a folder, or has no patients.
    """
    folder = Path(folder)
    chosen = load_task(task) if task is not None else guess_task(folder)
    cohort = find_cohort(folder, chosen, layout)
    if cohort.layout == "cubes":
        cohort = cohort._replace(cases=cube_items(folder, cohort.cases, full_only=False))
    if not cohort.cases:
        rest = f"; {not_used(cohort.unused, folder)}" if cohort.unused else ""
        raise InputError(f"{folder} holds no patients with a sequence of {chosen.name}{rest}")
    patients = {case.name: patient_of(case.name, patient_pattern) for case in cohort.cases}
    problems = list(_of_cohort(cohort, chosen, patient_pattern, labeled))
    if text := doubtful(cohort.cases, folder, chosen):
        problems.append(Problem("warning", "name", "", text))
    convention: Convention | None = None
    try:
        label_files = [path for case in cohort.cases for path in case.files.get(LABEL, [])[:1]]
        names = [case.name for case in cohort.cases]
        where = str(folder / "dataset.json")
        convention = find_convention(chosen, names, label_files, labels, cohort.label_names, where)
        if convention.doubt:
            problems.append(Problem("warning", "label", "", convention.doubt))
    except InputError as error:
        problems.append(Problem("error", "label", "", str(error)))
    whole = chosen if cohort.layout != "cubes" else None
    problems += _of_cases(cohort.cases, chosen.spatial_dims, convention, voxels, policy, whole)
    problems += _duplicates(cohort.cases, patients)
    return Verdict(
        chosen, cohort.layout, tuple(cohort.cases), convention, tuple(problems), tuple(cohort.unused), patients
    )


def _of_cases(
    cases: Sequence[Case],
    spatial_dims: int,
    convention: Convention | None,
    voxels: bool,
    policy: str,
    whole: Task | None = None,
) -> Iterator[Problem]:
    """What is wrong with each case by itself.

    Args:
        whole: the task, where the images show the whole of what it is about.
    """

    def look(case: Case) -> list[Problem]:
        found = _of_case(case, spatial_dims, convention, voxels, policy, whole)
        return list(dict.fromkeys(found))  # of a 4-D file the same is wrong for each modality

    with ThreadPoolExecutor(THREADS) as pool:  # most of the time is that of unpacking, which threads share
        for problems in pool.map(look, cases):
            yield from problems


def _of_cohort(cohort: Cohort, task: Task, patient_pattern: str | None, labeled: bool) -> Iterator[Problem]:
    for m in task.modality_names:
        if not any(m in case.files for case in cohort.cases):
            yield Problem("warning", "name", "", f"no patient has {m}; a network does not learn it")
    own = [case for case in cohort.cases if case.split != "test"]  # of its test patients a challenge keeps the labels
    unlabeled = [case.name for case in own if LABEL not in case.files]
    if unlabeled and len(unlabeled) < len(own):
        for name in unlabeled:
            level = "error" if labeled else "warning"
            yield Problem(level, "label", name, f"{name} has no label; add it, or take the patient out")
    elif unlabeled:
        yield Problem("warning", "label", "", "no patient has a label: nothing to train on or to score")
    if patient_pattern is None and (doubt := doubtful_patients(case.name for case in cohort.cases)):
        yield Problem("warning", "patient", "", doubt)


def _of_case(
    case: Case, spatial_dims: int, convention: Convention | None, voxels: bool, policy: str, whole: Task | None
) -> Iterator[Problem]:
    headers: dict[str, Header] = {}
    for role, paths in case.files.items():
        if len(paths) > 1:
            try:
                case.only(role)
            except InputError as error:
                yield Problem("error", "name", case.name, str(error))
            continue
        try:
            headers[role] = read_header(paths[0], num_volumes=_count(case, role))
        except InputError as error:
            yield Problem("error", "file", case.name, str(error))
            continue
        for note in headers[role].notes:
            yield Problem("warning", "geometry", case.name, f"{paths[0]}: {note}")
    first = next((header for role, header in headers.items() if role != LABEL), None)
    for header in headers.values():
        try:
            if first is not None:
                check_same_grid(first, header)
        except InputError as error:
            yield Problem("warning" if policy == "repair" else "error", "geometry", case.name, str(error))
    if spatial_dims == 3 and first is not None and min(first.shape) < 2:
        yield Problem("error", "geometry", case.name, f"{first.path} is a single slice; a 3-D network wants a volume")
    images: dict[str, Volume] = {}
    for role in headers:
        if not voxels and role != LABEL:
            continue
        try:
            volume = _read(case, role)
        except InputError as error:
            yield Problem("error", "file", case.name, str(error))
            continue
        if role == LABEL:
            yield from _of_label(case, volume, convention)
        else:
            judged = judge_volume(role, volume)
            yield from _of_image(case, volume, headers[role], judged, policy)
            if not judged:
                images[role] = volume
    if whole is not None:
        yield from _of_images(case, images, whole)


def _count(case: Case, role: str) -> int:
    return len(case.channels) if case.channels and role != LABEL else 1


def _read(case: Case, role: str) -> Volume:
    wanted = (case.channels.index(role),) if case.channels and role != LABEL else (0,)
    (volume,) = read_volumes(case.files[role][0], _count(case, role), wanted)
    return volume


def _of_image(case: Case, volume: Volume, header: Header, judged: Mapping[str, str], policy: str) -> Iterator[Problem]:
    for note in set(volume.notes) - set(header.notes):
        yield Problem("warning", "image", case.name, f"{volume.path}: {note}")
    for kind, text in judged.items():
        level = "error" if is_refused(kind, policy) else "warning"
        yield Problem(level, "image", case.name, f"{volume.path}: {text}")


def _of_images(case: Case, images: Mapping[str, Volume], task: Task) -> Iterator[Problem]:
    """What is odd about images beside each other, of those on the grid of the first."""
    beside = {m: volume for m, volume in images.items() if same_grid(volume, next(iter(images.values())))}
    if beside:
        for finding in (*judge_coverage(beside, next(iter(beside))), *check_images(beside, task)):
            yield Problem("warning", "image", case.name, f"{case.folder}: {finding.text}")


def _of_label(case: Case, volume: Volume, convention: Convention | None) -> Iterator[Problem]:
    path = volume.path
    try:
        found = values_in(whole_numbers(volume.data, path))
        if convention is not None:
            check_values(found, convention.values, path, convention.name)
    except InputError as error:
        yield Problem("error", "label", case.name, str(error))
        return
    if not any(found):
        yield Problem("warning", "label", case.name, f"{path} is empty: it has no label but 0")


def _duplicates(cases: Sequence[Case], patients: Mapping[str, str]) -> Iterator[Problem]:
    """The same file for two sequences, or for two patients: a mistake, or a leak between training and test.

    Args:
        patients: case -> whose it is.
    """
    files = [
        (case, role, paths[0])
        for case in cases
        for role, paths in case.files.items()
        if role != LABEL and not case.channels and len(paths) == 1 and paths[0].is_file()
    ]
    groups: list[list[_File]] = [files]
    for told in (_size, _middle, sha256):
        groups = [part for group in groups for part in _alike(group, told)]
    for (case, role, path), *others in groups:
        strangers = [one for one in others if patients[one[0].name] != patients[case.name]]
        for other, other_role, other_path in [one for one in others if one[0] is case] + strangers[:1]:
            what = f"{path} ({role}) and {other_path} ({other_role}) are the same image"
            if other is case:
                yield Problem("error", "duplicate", case.name, f"{what}; give each sequence its own file")
                continue
            more = f", as {len(strangers) - 1} more" if len(strangers) > 1 else ""
            leak = "one patient under two names may fall into training and test"
            yield Problem("error", "duplicate", other.name, f"{what}{more}: {leak}; keep one")


def _alike(files: Sequence[_File], told: Callable[[Path], Hashable]) -> list[list[_File]]:
    """Groups of two and more files of which something is the same."""
    groups: dict[Hashable, list[_File]] = defaultdict(list)
    for one in files:
        groups[told(one[2])].append(one)
    return [group for group in groups.values() if len(group) > 1]


def _size(path: Path) -> int:
    return path.stat().st_size


def _middle(path: Path) -> bytes:
    """64 KB: other images of the same size differ there, and need not be read whole."""
    with path.open("rb") as file:
        file.seek(max(_size(path) - MIDDLE, 0) // 2)
        return file.read(MIDDLE)


def print_problems(verdict: Verdict) -> None:
    """A line for each.

    Raises:
        InputError: there are errors among them.
    """
    for problem in verdict.problems:
        print(f"{problem.level}: {problem.text}")
    if verdict.errors:
        number = "1 error" if len(verdict.errors) == 1 else f"{len(verdict.errors)} errors"
        raise InputError(f"{number} in {len(verdict.cases)} cases; the lines above say what to do")


def verify_datalist(
    datalist: Mapping[str, Any],
    splits: Sequence[str] = tuple(SPLITS),
    policy: str = "strict",
    spatial_dims: int = 3,
) -> None:
    """Check a datalist with absolute paths as `verify_cohort` does, by headers, labels and duplicates.

    All errors are logged, one per line.

    Raises:
        InputError: there are errors, or a case of ``splits`` has no label; the message has the first error.
    """
    labels = datalist.get("labels")
    values = {int(k): int(v) for k, v in labels["values"].items()} if labels else {}
    convention = Convention(labels["convention"], values) if labels else None
    problems: list[Problem] = []
    cases: dict[tuple[Any, ...], Case] = {}
    others: dict[tuple[Any, ...], Case] = {}
    patients: dict[str, str] = {}
    for split in SPLITS:
        for item in datalist.get(split, ()):
            if split in splits and not item.get("label"):
                text = f"{item['case']} ({split}) has no label; add it, or take the case out of the datalist"
                problems.append(Problem("error", "label", item["case"], text))
                continue
            files = {m: [Path(path)] for m, path in {**item["image"], LABEL: item.get("label")}.items() if path}
            folder = next(iter(files.values()))[0].parent
            case = Case(item["case"], folder, files, tuple(item.get("channels") or ()))
            patients[case.name] = item["patient"]
            # Slices of one file are one case.
            (cases if split in splits else others).setdefault(tuple(map(str, files.values())), case)
    problems += _of_cases(list(cases.values()), spatial_dims, convention, False, policy)
    problems += _duplicates([*cases.values(), *others.values()], patients)
    if errors := [problem.text for problem in problems if problem.level == "error"]:
        for text in errors[1:]:
            logger.error(text)
        more = f" ({len(errors) - 1} more, above; see `monai-passion verify`)" if len(errors) > 1 else ""
        raise InputError(f"{errors[0]}{more}")
