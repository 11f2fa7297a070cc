"""Folders of patients: the files of each patient, for any data set; every file that is not used is named.

One walk serves training, evaluation, `predict` and `verify`. A patient is a folder with images in it, the common
beginning of the names in a folder of many patients' files, a BIDS subject and session, or an entry of ``dataset.json``.
"""

from __future__ import annotations

import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from monai_passion.data.labels import label_classes
from monai_passion.data.naming import (
    LABEL,
    NOT_TOLD,
    Named,
    doubtful_names,
    is_ignored,
    patient_key,
    read_name,
    stem_of,
    unknown_words,
    variant_words,
)
from monai_passion.data.splits import is_time
from monai_passion.errors import InputError, UsageError
from monai_passion.system.files import read_json
from monai_passion.tasks import Task, load_task, task_names

__all__ = [
    "LAYOUTS",
    "NUMBER",
    "READ",
    "Case",
    "Cohort",
    "channels_of",
    "cube_items",
    "doubtful",
    "find_cohort",
    "guess_task",
    "not_used",
    "read_dataset_json",
]

logger = logging.getLogger(__name__)

LAYOUTS = {
    "folders": "one folder per patient, as BraTS, UPENN-GBM, UCSF-PDGM, LUMIERE and MyoPS: CASE/CASE_flair.nii.gz",
    "flat": "files of many patients in a folder: CASE_flair.nii.gz; labels may lie in a folder of their own",
    "bids": "sub-X[/ses-Y]/anat/sub-X_FLAIR.nii.gz; a label ends in _dseg, also below derivatives/",
    "decathlon": "dataset.json and 4-D files, as Task01_BrainTumor of the Medical Segmentation Decathlon",
    "nnunet": "dataset.json, imagesTr/CASE_0000.nii.gz, labelsTr/CASE.nii.gz, as nnU-Net has them",
    "cubes": "index.csv and CASE/CASE_flair.nii.gz; a case is PATIENT_L...",
}
"""Layout -> what a folder in it looks like."""
READ = (".nii.gz", ".nii")
OTHER_FORMATS = (
    *(".mha", ".mhd", ".nrrd", ".nhdr", ".mgz", ".mgh", ".mif", ".mif.gz", ".mnc", ".gipl", ".gipl.gz"),
    *(".hdr", ".hdr.gz", ".img", ".img.gz", ".nii.gzip"),
)
UNFINISHED = re.compile(
    r"\.nii(?:\.gz\.gz|(?:\.gz)?\.(?:bz2|xz|zst|part|partial|crdownload|download|tmp))$", re.IGNORECASE
)
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".rar")
DEPTH = 6
"""Depth of sub-folders in which files are searched."""
DATATYPES = ("anat", "perf", "dwi", "func", "fmap", "swi", "pet")
"""Folders of BIDS below a session."""
NUMBER = re.compile(
    r"((s|se|ser|series|im|img|image|file|scan|vol|volume|mr|v|ax|axial|sag|sagittal|cor|coronal|tra)?"
    r"[_\-. ]*\d{1,4}[a-z]?)?",
    re.IGNORECASE,
)
"""A series number before a sequence's name, which does not name a patient."""


@dataclass
class Case:
    """One examination: the files of one patient at one time."""

    name: str
    folder: Path
    files: dict[str, list[Path]] = field(default_factory=dict)
    """Modality, or ``naming.LABEL`` -> its files; several if it is not clear which one is right."""
    channels: tuple[str | None, ...] = ()
    """Modality of each volume, if its files are 4-D; None for one that the task does not use."""
    split: str = ""
    """The split, "training" or "test", if the data set itself names it; else ""."""

    @property
    def images(self) -> dict[str, Path]:
        """Modality -> file.

        Raises:
            InputError: there are several for one.
        """
        return {role: self.only(role) for role in self.files if role != LABEL}

    @property
    def label(self) -> Path | None:
        """Its label map; see `images`."""
        return self.only(LABEL) if self.files.get(LABEL) else None

    def only(self, role: str) -> Path:
        """The one file of a role, a modality or ``naming.LABEL``.

        Raises:
            InputError: there are several; the message lists them.
        """
        first, *more = self.files[role]
        if more:
            names = " and ".join(map(str, self.files[role]))
            number = "two files" if len(more) == 1 else f"{len(more) + 1} files"
            raise InputError(
                f"{self.name} has {number} for {role}: {names}; keep one, or name the right one (as --{role} FILE)"
            )
        return first


class Cohort(NamedTuple):
    """The content of a folder."""

    layout: str
    """One of ``LAYOUTS``."""
    cases: list[Case]
    """Cases with an image, in the order of their names."""
    unused: list[tuple[Path, str]]
    """Files that no case has, and the reason, in words that follow "not used: FILE is ..."."""
    label_names: Mapping[int, str]
    """Value -> name of the labels, from ``dataset.json``."""


class _Found(NamedTuple):
    path: Path
    home: Path
    """The folder whose files it goes with."""
    said: Named


def find_cohort(folder: Path, task: Task, layout: str = "auto") -> Cohort:
    """The patients of a folder, and the files that belong to none of them.

    Args:
        folder: in one of the ``LAYOUTS``, or one patient's.
        task: whose modalities are looked for.
        layout: "auto"; "folders" or "flat" if the files in a folder belong to one patient or to many.

    Raises:
        InputError: it is not a folder, or its ``dataset.json`` is damaged.
        UsageError: an unknown layout.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give the folder that holds the patients")
    if layout not in ("auto", *LAYOUTS):
        raise UsageError(f"unknown layout '{layout}'; known are {', '.join(LAYOUTS)}")
    if (folder / "dataset.json").is_file() and layout in ("auto", "decathlon", "nnunet"):
        return _listed(folder, task)
    if layout in ("decathlon", "nnunet"):
        raise InputError(
            f"{folder} has no dataset.json, which the layout {layout} has; correct the folder or the layout"
        )
    unused: list[tuple[Path, str]] = []
    found = list(_recognized(folder, task, unused))
    if layout == "bids" or (layout == "auto" and sum(f.path.name.startswith("sub-") for f in found) * 2 > len(found)):
        cases, name = _bids(folder, found, unused), "bids"
    else:
        cases, name = _folders(folder, found, unused, layout)
    _choose_plain(cases, unused)
    cases = sorted((case for case in cases if set(case.files) - {LABEL}), key=lambda case: case.name)
    if (folder / "index.csv").is_file() and layout in ("auto", "cubes"):
        name = "cubes"
    return Cohort(name if layout == "auto" else layout, cases, sorted(unused), {})


def not_used(unused: Sequence[tuple[Path, str]], folder: Path, most: int = 5) -> str:
    """A line on the files that are not used, with reasons: one file of each kind, and the number of further ones."""
    kinds: dict[str, list[str]] = {}
    for path, why in unused:
        kinds.setdefault(why, []).append(path.relative_to(folder).as_posix())
    texts = []
    for why, names in kinds.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        texts.append(f"{names[0]}{more} ({why})")
    rest = f", and {len(texts) - most} kinds more (see `monai-passion verify`)" if len(texts) > most else ""
    return f"not used: {', '.join(texts[:most])}{rest}"


def doubtful(cases: Iterable[Case], folder: Path, task: Task) -> str:
    """A line on the images that are used although their names have unknown words; "" if there are none."""

    def words(case: Case, path: Path) -> tuple[str, ...]:
        return unknown_words(
            path.name, task, "_".join((case.name, *path.parent.relative_to(folder).parts, folder.name))
        )

    images = (
        (case, m, path) for case in cases if not case.channels for m, paths in case.files.items() for path in paths
    )
    return doubtful_names(
        (path.relative_to(folder).as_posix(), m, words(case, path)) for case, m, path in images if m != LABEL
    )


def guess_task(folder: Path, preferred: Task | None = None) -> Task:
    """The task of this package whose modalities most file names in a folder tell; among equals the preferred one.

    Raises:
        InputError: ``folder`` is not a folder, or its ``dataset.json`` is damaged.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give the folder that holds the patients")
    if (folder / "dataset.json").is_file():
        names = list(channels_of(read_dataset_json(folder / "dataset.json")).values())
    else:
        names = [path.name for path in _walk(folder)]
    tasks = sorted((load_task(name) for name in task_names()), key=lambda task: task != preferred)
    count = [sum((read_name(name, task).role or LABEL) != LABEL for name in names[:2000]) for task in tasks]
    return tasks[count.index(max(count))]


def _walk(folder: Path) -> Iterator[Path]:
    """All images and their like, hidden ones and those of macOS left out."""
    for place, folders, names in os.walk(folder, onerror=_refuse, followlinks=True):
        folders[:] = sorted(name for name in folders if not is_ignored(name))
        if len(Path(place).relative_to(folder).parts) >= DEPTH:
            folders.clear()
        for name in sorted(names):
            told = name.lower().endswith((*READ, *OTHER_FORMATS, *ARCHIVES)) or UNFINISHED.search(name)
            if told and not is_ignored(name):
                yield Path(place, name)


def _refuse(error: OSError) -> None:
    raise InputError(
        f"{error.filename} cannot be read ({error.strerror}); get access to it, or take it out of the data"
    ) from error


def _not_read(path: Path) -> str | None:
    """Why a file that seems to hold an image is not read; None for one that is, and for all else."""
    if path.name.lower().endswith(ARCHIVES):
        return "an archive, which is not read; unpack it"
    if UNFINISHED.search(path.name):
        return f"{path.suffix} after .nii: unfinished or packed twice; copy or name it again"
    if path.name.lower().endswith(OTHER_FORMATS):
        return f"a {path.suffix} file, which is not read; convert it to .nii.gz"
    return None


def _recognized(folder: Path, task: Task, unused: list[tuple[Path, str]]) -> Iterator[_Found]:
    said: dict[Path, Named] = {}
    for path in _walk(folder):
        if why := _not_read(path):
            unused.append((path, why))
        else:
            said[path] = read_name(path.name, task, path.parent.name)
    of_sequence = _folders_of_sequences(folder, task, said)
    for path, own in said.items():
        home = path.parent
        if home in of_sequence and (own.why == NOT_TOLD or own.role is not None):
            above = of_sequence[home]
            if own.role in (None, above.role):
                patient = above.patient or (own.patient if own.role else stem_of(path.name))
                own, home = (own if own.role else above)._replace(patient=patient), home.parent
        if own.role is None:
            unused.append((path, own.why))
        else:
            while home.name in DATATYPES and home != folder:
                home = home.parent
            yield _Found(path, home, own)


def _folders_of_sequences(folder: Path, task: Task, said: Mapping[Path, Named]) -> dict[Path, Named]:
    """Folders that hold one sequence of a patient, or of many, and are named after it: T1, 4_T1, anna_T1.

    Where the name holds more than the sequence, others beside it with the same beginning, or with numbers of series,
    must be of other sequences.
    """
    roles: dict[Path, set[str]] = defaultdict(set)
    for path, own in said.items():
        if path.parent != folder:
            roles[path.parent] |= {own.role} if own.role else set()
    found: dict[Path, Named] = {}
    siblings: dict[tuple[Path, str], dict[Path, Named]] = defaultdict(dict)
    for home in roles:
        above = read_name(home.name, task)
        if above.role is None:
            continue
        if not above.patient:
            found[home] = above
        elif roles[home] <= {above.role}:
            whose = "" if NUMBER.fullmatch(above.patient) else patient_key(above.patient)
            siblings[home.parent, whose][home] = above
    for named in siblings.values():
        if len({one.role for one in named.values()}) == len(named) > 1:
            found.update(named)
    return found


def _bids(folder: Path, found: Iterable[_Found], unused: list[tuple[Path, str]]) -> list[Case]:
    cases: dict[str, Case] = {}
    for path, home, said in sorted(found, key=lambda one: one.said.role == LABEL):
        parts = path.relative_to(folder).parts
        if "derivatives" in parts and said.role != LABEL:
            unused.append((path, "a derivative; the raw image is used"))
            continue
        text = "/".join(parts[:-1]) + "/" + path.name
        subject, session = (re.search(rf"(?:^|[/_])({key}-[a-zA-Z0-9+]+)", text) for key in ("sub", "ses"))
        if subject is None:
            unused.append((path, "of no subject (sub-X)"))
            continue
        name = "_".join(match[1] for match in (subject, session) if match)
        _add(cases.setdefault(name, Case(name, home)), said, path)
    return list(cases.values())


def _folders(
    root: Path, found: Sequence[_Found], unused: list[tuple[Path, str]], layout: str
) -> tuple[list[Case], str]:
    groups: dict[Path, list[_Found]] = defaultdict(list)
    labels: list[_Found] = []
    for one in found:
        groups[one.home].append(one)
    for home in [home for home, group in groups.items() if all(one.said.role == LABEL for one in group)]:
        labels += groups.pop(home)
    homes = _patients_folders(root, groups, unused)
    wanted = {patient_key(one.said.patient) for one in labels}  # folders of labels name their patients
    named: list[Case] = []
    is_flat = False
    for home in homes:
        parts: dict[str, list[_Found]] = defaultdict(list)
        is_series = layout != "flat" and _count_series(groups[home])
        if is_series:
            _tell_numbers(root, groups[home])
        for one in groups[home]:
            parts["" if is_series and NUMBER.fullmatch(one.said.patient) else patient_key(one.said.patient)].append(one)
        prefixes = {key for key, part in parts.items() if key and any(one.said.role != LABEL for one in part)}
        own = patient_key(home.name) in prefixes or any(one.said.patient == home.name for one in groups[home])
        single = len(prefixes) < 2 and not (prefixes & wanted - {patient_key(home.name)})
        if layout == "folders" or (layout != "flat" and (own or single)):
            name = home.name if own or home == root else _path_name(home.relative_to(root).parts)
            name = f"{root.resolve().name}_{name}" if is_time(name) else name
            case = Case(name, home)
            for one in groups[home]:
                _add(case, one.said, one.path)
            named.append(case)
            continue
        is_flat = True
        for key, part in parts.items():
            if key not in prefixes:
                unused.extend(
                    (one.path, "beside the files of several patients, and its name says no patient") for one in part
                )
                continue
            case = Case(part[0].said.patient, home)
            for one in part:
                _add(case, one.said, one.path)
            named.append(case)
    cases = _apart(root, named)
    for one in labels:
        _give_label(one, cases, unused)
    return cases, "flat" if is_flat else "folders"


def _count_series(files: Sequence[_Found]) -> bool:
    """Whether the numbers before the sequences' names are those of series.

    They are patients' where two files of a sequence have different ones, or some have the same and others do not.
    """
    numbered = [one for one in files if NUMBER.fullmatch(one.said.patient)]
    roles = [one.said.role for one in numbered]
    numbers = [key for one in numbered if (key := patient_key(one.said.patient))]
    return len(set(roles)) == len(roles) and len(set(numbers)) in (0, 1, len(numbers))


def _tell_numbers(root: Path, files: Sequence[_Found]) -> None:
    """Names that are numbers alone, in folders of sequences, may be patients' as well."""
    bare = [one for one in files if stem_of(one.path.name).isdecimal()]
    if len({one.path.parent for one in bare}) > 1 and len({one.said.patient for one in bare}) > 1:
        names = ", ".join(str(one.path.relative_to(root)) for one in bare[:4])
        text = "%s: these numbers are taken for series of one patient; --layout flat takes them for patients"
        logger.warning(text, names)


def _patients_folders(
    root: Path, groups: Mapping[Path, Sequence[_Found]], unused: list[tuple[Path, str]]
) -> list[Path]:
    """The folders that are patients' (or flat): none lies below another, and strays beside them count as none."""
    below = sorted(home for home in groups if home != root)
    tops: list[Path] = []
    for home in below:
        if any(home.is_relative_to(top) for top in tops):
            unused.extend(
                (one.path, "in a folder below a patient's, whose own images are used") for one in groups[home]
            )
        else:
            tops.append(home)
    if root not in groups:
        return tops
    in_root = len({patient_key(one.said.patient) for one in groups[root]})
    if len(tops) > max(in_root, 1) or (len(tops) > 1 and in_root < 2):
        unused.extend((one.path, "beside the patients' folders, in none of them") for one in groups[root])
        return tops
    for home in tops:
        unused.extend((one.path, f"in a folder below {root.name}, whose own images are used") for one in groups[home])
    return [root]


def _apart(root: Path, cases: Sequence[Case]) -> list[Case]:
    """Cases of one name in several folders are named by their paths."""
    by_name: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        by_name[patient_key(case.name)].append(case)
    result = []
    for same in by_name.values():
        for case in same:
            if len(same) > 1:
                path = case.folder.relative_to(root).parts
                case.name = _path_name(path if path and path[-1] == case.name else (*path, case.name))
            result.append(case)
    return result


def _path_name(parts: Sequence[str]) -> str:
    """A name of folders; those that say only when, as ``followup``, come last, so that the patient's comes first."""
    return "_".join(sorted(parts, key=is_time))


def _give_label(one: _Found, cases: Sequence[Case], unused: list[tuple[Path, str]]) -> None:
    """A label from a folder of labels, or from one below its patient's, to the case whose name it has."""
    key = patient_key(one.said.patient)
    near = [case for case in cases if one.home.parent == case.folder and not case.files.get(LABEL)]
    named = [case for case in cases if key and key in (patient_key(case.name), patient_key(case.folder.name))]
    chosen = named or (near if len(near) == 1 else [])
    if len(chosen) == 1:
        _add(chosen[0], one.said, one.path)
    else:
        below = any(one.path.is_relative_to(case.folder) for case in cases)
        why = "a label map below a patient's folder; put it beside the images that it was drawn on"
        unused.append((one.path, why if below else "a label map of none of the patients found"))


def _add(case: Case, said: Named, path: Path) -> None:
    assert said.role is not None
    case.files.setdefault(said.role, []).append(path)


def _choose_plain(cases: Iterable[Case], unused: list[tuple[Path, str]]) -> None:
    """Keep only the plain file, if there are corrected forms of it."""
    for case in cases:
        for role, paths in case.files.items():
            said = [len(variant_words(path.name)) for path in paths]
            plain = [path for path, count in zip(paths, said, strict=True) if count == min(said)]
            if len(plain) == 1 < len(paths):
                unused.extend((path, f"another form of {plain[0].name}") for path in paths if path not in plain)
                case.files[role] = plain


def read_dataset_json(path: Path) -> dict[str, Any]:
    """The content of a ``dataset.json``.

    Raises:
        InputError: it is not one.
    """
    index = read_json(path, "check the path, or copy it again")
    channels = _named_channels(index) if isinstance(index, dict) else None
    if not isinstance(channels, dict) or not all(k.isdigit() and isinstance(name, str) for k, name in channels.items()):
        raise InputError(
            f"{path} is not a dataset.json of the Decathlon or of nnU-Net (modality or channel_names, as in "
            '{"0": "FLAIR"}); correct it, or give the layout folders'
        )
    return index


def _named_channels(index: Mapping[str, Any]) -> Any:
    return index.get("channel_names") or index.get("modality")


def channels_of(index: Mapping[str, Any]) -> dict[int, str]:
    """Number -> name of each channel of a ``dataset.json``, in the order of the numbers."""
    named = {int(k): str(name) for k, name in _named_channels(index).items()}
    return dict(sorted(named.items()))


def _listed(folder: Path, task: Task) -> Cohort:
    path = folder / "dataset.json"
    index = read_dataset_json(path)
    try:
        names = channels_of(index)
        pairs = label_classes(index.get("labels", {}), task)
        entries = [(e["image"], e.get("label"), "training") for e in index["training"]] if "training" in index else []
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} is not a dataset.json of the Decathlon or of nnU-Net ({error}); correct it"
        ) from error
    roles = {k: read_name(name, task).role for k, name in names.items()}
    if not any(roles.values()):
        raise InputError(
            f"{path}: none of {', '.join(names.values())} is a modality of {task.name}; give another --task"
        )
    for one, count in Counter(filter(None, roles.values())).items():
        if count > 1:
            same = ", ".join(f"{k} {names[k]}" for k in sorted(names) if roles[k] == one)
            raise InputError(f"{path} names {one} {count} times (channels {same}); say in it which one is what")
    unused: list[tuple[Path, str]] = []
    if (
        entries
        and "channel_names" not in index
        and not (folder / "imagesTr" / f"{_case_of(entries[0][0])}_0000.nii.gz").exists()
    ):
        channels = tuple(role for _, role in sorted(roles.items()))
        cases = []
        for image, label, split in sorted(entries):
            case = Case(_case_of(image), folder, channels=channels, split=split)
            case.files = {role: [folder / image.removeprefix("./")] for role in roles.values() if role}
            if label:
                case.files[LABEL] = [folder / label.removeprefix("./")]
            cases.append(case)
        return Cohort("decathlon", cases, unused, pairs)
    cases_by_name: dict[str, Case] = {}
    for place, split in (("imagesTr", "training"), ("imagesTs", "test")):
        for file in sorted((folder / place).glob("*")):
            if why := _not_read(file):
                unused.append((file, why))
            if why or not file.name.lower().endswith(READ):
                continue
            match = re.fullmatch(r"(.+)_(\d{4})", stem_of(file.name))
            if is_ignored(file.name):
                continue
            role = roles.get(int(match[2])) if match else None
            if match is None or role is None:
                unused.append((file, "of no channel of dataset.json that the task has"))
                continue
            case = cases_by_name.setdefault(match[1], Case(match[1], folder, split=split))
            case.files.setdefault(role, []).append(file)
            label = folder / place.replace("images", "labels") / f"{match[1]}{file.name[len(stem_of(file.name)) :]}"
            if label.is_file():
                case.files[LABEL] = [label]
    return Cohort("nnunet", list(cases_by_name.values()), unused, pairs)


def _case_of(image: str) -> str:
    return stem_of(Path(image).name).removesuffix("_0000")


def cube_items(folder: Path, cases: Iterable[Case], full_only: bool) -> list[Case]:
    """The cases that ``index.csv`` lists; with ``full_only``, without the zero-padded ones.

    Raises:
        InputError: it is not an index of cubes.
    """
    path = folder / "index.csv"
    try:
        index = pd.read_csv(path, dtype={"case": str}).set_index("case")["valid_voxels"].to_dict()
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{path} is not an index of cubes with the columns case and valid_voxels ({error}); correct it"
        ) from error
    full = max(index.values(), default=0)
    return [case for case in cases if case.name in index and (index[case.name] == full or not full_only)]
