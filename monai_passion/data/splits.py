"""Training, validation and test: all examinations of a patient are in one of them."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from monai_passion.data.presence import plain_case_name
from monai_passion.data.seeds import check_seed
from monai_passion.data.slices import SLICE
from monai_passion.errors import InputError, UsageError

__all__ = [
    "FRACTIONS",
    "SPLITS",
    "check_patients",
    "doubtful_patients",
    "is_time",
    "listed_split",
    "patient_of",
    "random_split",
    "read_lists",
    "repeated",
]

logger = logging.getLogger(__name__)

SPLITS = {"training": "train", "validation": "val", "test": "test"}
"""Key in a datalist -> name of the published list of its patients."""
FRACTIONS = (0.7, 0.1, 0.2)
"""Shares of the patients for training, validation and test."""
_TIME = (
    "(?:ses|session|visit|tp|timepoint|time|week|month|day|scan|exam|baseline|follow-?up|fu|diagnosis|recurrence|relapse"
    r"|progression|(?:pre|post|intra)[_-]?(?:op)?)[_\-. ]?[a-z]?\d*d?(?:[_\-. ]\d+)*"
)
PATIENTS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"(sub-[a-z0-9+]+)(?:_.*)?",  # BIDS
        r"(BraTS-[a-z-]+-\d+)-\d+",  # BraTS from 2023 on
        r"(PatientID_\d+)_.*",  # MU-Glioma-Post
        r"(UCSF-PDGM-\d+)(?:_.*)?",  # UCSF-PDGM-0429_FU003d_nifti
        r"(Patient-\d+)_week-.*",  # LUMIERE
        r"(.+)_L\d{3}",  # cubes
        r"(\d{5})_\d{7}",  # PI-CAI
        r"(.*\d{2})[_\-. ]+(?:MR[_\-. ]?)?(?:[vtedmyw]|MR|MRI)\d{1,4}",  # 001_T0, P01-V1, OAS30001_MR_d0129
        r"(.*\d{2})[_\-. ]+(?:\d{1,3}(?:d|w|m|mo|y)|[my]\d{1,2})",  # P01_6m
        rf"(.+?)[_\-. ]+{_TIME}",
        r"(.+?)[_\-. ]+(?:19|20)\d\d[_\-.]?\d\d[_\-.]?\d\d",  # a date
        r"(.*pat\d+)[_\-]\d{1,3}",  # BraTS 2013
        r"(UPENN-GBM-\d+|RHUH-\d+)_\d{1,2}",
        r"((?:.*[_\-. ])?(?!(?:19|20)\d\d[_\-])\d{3,})[_\-]\d{1,3}",  # 0123-001
    )
)
"""Patterns for the patient at the beginning of an examination's name, the most specific scheme first."""
NUMBERS = PATIENTS[-1]
"""Two numbers: a patient's and an examination's, or a site's and a patient's."""


def patient_of(case: str, pattern: str | None = None) -> str:
    """The patient of an examination, by its name: ``UPENN-GBM-00001_21`` belongs to ``UPENN-GBM-00001``.

    Args:
        case: the name of the examination.
        pattern: a regular expression whose first group is the patient, in place of the known schemes.

    Raises:
        UsageError: the pattern is not a regular expression, has no group, or does not fit the name.
    """
    if pattern is None:
        return next((match[1] for scheme in PATIENTS if (match := scheme.fullmatch(case))), case)
    try:
        match = re.search(pattern, case)
    except re.error as error:
        raise UsageError(
            f"the patient pattern '{pattern}' is not a regular expression ({error}); correct it"
        ) from error
    if match is None or not match.re.groups or not match[1]:
        raise UsageError(
            f"the patient pattern '{pattern}' finds no patient in '{case}'; its first group must be the patient, as in "
            r"'(.+)_\d+'"
        )
    return match[1]


def is_time(case: str) -> bool:
    """Whether a name tells only the examination (``week-044``, ``ses-1``); the folder above names the patient."""
    return re.fullmatch(_TIME, case, re.IGNORECASE) is not None


def doubtful_patients(cases: Iterable[str]) -> str:
    """A warning where names leave open which cases are examinations of one patient; "" where they do not."""
    names = sorted({*cases})
    together = Counter(patient_of(name) for name in names if _is_by_numbers(name))
    if most := [patient for patient, count in together.most_common(1) if count > 1]:
        of_it = [name for name in names if patient_of(name) == most[0]]
        return (
            f"{', '.join(of_it[:3])}{', ...' * (len(of_it) > 3)} are taken for examinations of one patient, "
            f"{most[0]} (of {sum(together.values())} cases for those of {len(together)} patients); if every case is a "
            "patient, give the patient pattern '(.+)'"
        )
    if shared := repeated(names):
        return (
            f"{sum(shared.values())} cases share the beginning of their names, as {next(iter(shared))}, and count as "
            "different patients; if they are examinations of one patient, give a patient pattern"
        )
    return ""


def _is_by_numbers(case: str) -> bool:
    return next((scheme for scheme in PATIENTS if scheme.fullmatch(case)), None) is NUMBERS


def repeated(cases: Iterable[str]) -> dict[str, int]:
    """Beginnings that two to four names share, if most names do; they count as different patients.

    ``A_1, A_2, B_1, B_2`` may be two examinations of each of two patients. Values are the numbers of names.
    """
    names = sorted({patient_of(case) for case in cases})
    begins = Counter(
        match[1] for name in names if (match := re.fullmatch(r"(.+)[_\-. ][a-z]?\d{1,3}", name, re.IGNORECASE))
    )
    some = {name: count for name, count in begins.items() if 2 <= count <= 4}
    return some if len(some) > 1 and sum(some.values()) * 2 > len(names) else {}


def random_split(
    items: Sequence[dict[str, Any]], fractions: Sequence[float], seed: int
) -> dict[str, list[dict[str, Any]]]:
    """The items by split, each patient in one, drawn from the seed.

    Raises:
        UsageError: invalid fractions, or a negative seed.
        InputError: fewer patients than parts.
    """
    check_seed(seed)
    if len(fractions) != len(SPLITS) or min(fractions) < 0 or not abs(sum(fractions) - 1) <= 1e-6:
        raise UsageError(
            f"fractions are {tuple(fractions)}; give three that add to 1, for training, validation and test"
        )
    patients = sorted({item["patient"] for item in items})
    wanted = [k for k, fraction in enumerate(fractions) if fraction > 0]
    if len(patients) < len(wanted):
        number = "1 patient" if len(patients) == 1 else f"{len(patients)} patients"
        cases = len({item["case"] for item in items})
        more = f" (of {cases} cases; if each is a patient, give --patient-pattern '(.+)')" * (cases > len(patients))
        raise InputError(
            f"{number} cannot be split into {len(wanted)} parts{more}; make a datalist with "
            "`monai-passion datalist --fractions 1 0 0`, say, and give that"
        )
    # Everyone who is wanted gets one patient, the others go where the shares are least filled.
    counts = [int(fraction > 0) for fraction in fractions]
    for _ in range(len(patients) - len(wanted)):
        counts[min(wanted, key=lambda k: (counts[k] + 0.5) / fractions[k])] += 1
    order = np.random.default_rng(seed).permutation(patients)
    bounds = np.cumsum([0, *counts])
    return {
        split: [item for item in items if item["patient"] in set(order[bounds[k] : bounds[k + 1]])]
        for k, split in enumerate(SPLITS)
    }


def read_lists(folder: Path) -> dict[str, list[str]]:
    """The names in train.txt, val.txt and test.txt of a folder.

    Raises:
        InputError: there is no list, or one is not text.
    """
    lists = {}
    for split, name in SPLITS.items():
        path = folder / f"{name}.txt"
        try:
            text = path.read_text(encoding="utf-8-sig") if path.is_file() else ""
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"{path} is not a list of names ({error}); save it as text in UTF-8, one name per line"
            ) from error
        lists[split] = [line.strip() for line in text.splitlines() if line.strip()]
    if not any(lists.values()):
        raise InputError(f"{folder} has no train.txt with names, one per line; give the folder of the lists")
    return lists


def listed_split(
    items: Sequence[dict[str, Any]], lists: Mapping[str, Iterable[str]], source: str
) -> dict[str, list[dict[str, Any]]]:
    """The items by split, where their case or patient is listed; a listed slice lists its patient.

    A warning names those that are listed and not there.

    Raises:
        InputError: no list names an item, or a patient is in two.
    """
    chosen: dict[str, list[dict[str, Any]]] = {}
    known = {name for item in items for name in (item["case"], item["patient"])}
    for split, listed in lists.items():
        names = {plain_case_name(name) for name in listed}
        if others := sorted(name for name in names if not {name, SLICE.sub("", name)} & known):
            logger.warning(
                "%s.txt in %s names %d of %d that the data do not have: %s",
                *(SPLITS[split], source, len(others), len(names), ", ".join(others[:3]) + ", ..." * (len(others) > 3)),
            )
        names |= {SLICE.sub("", name) for name in names}
        chosen[split] = [item for item in items if item["case"] in names or item["patient"] in names]
    if not any(chosen.values()):
        raise InputError(
            f"the lists in {source} name none of the {len(items)} cases, as {items[0]['case']}; give others"
        )
    check_patients(source, chosen)
    return chosen


def check_patients(source: str, splits: Mapping[str, Iterable[Mapping[str, Any]]]) -> None:
    """Refuse splits that share a patient.

    Raises:
        InputError: a patient is in two splits; the message names ``source``.
    """
    home: dict[str, str] = {}
    for split in SPLITS:
        for item in splits[split]:
            other = home.setdefault(item["patient"], split)
            if other != split:
                raise InputError(f"{source} has the patient {item['patient']} in {other} and in {split}; keep one")
