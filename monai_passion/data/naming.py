"""Which sequence a file or a DICOM series is, by its name: one grammar of words for every data set, site and vendor.

A name is split into words, each word into the pieces that `vocabulary` knows; what the pieces say together decides.
What is not clear is nothing: no name is guessed at, and `Named.why` says what stood in the way.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from monai_passion.data.vocabulary import (
    CONTRAST,
    EVENTS,
    EXCLUDED,
    HARMLESS,
    IN_FILES,
    LABELS,
    MARKERS,
    MEASURED,
    NATIVE,
    NEGATIONS,
    NEUTRAL,
    NO_LABELS,
    SEQUENCES,
    SPACES,
    T1C,
    TUMORS,
    UNCLEAR,
    VARIANTS,
)
from monai_passion.tasks import Task

__all__ = [
    "ENDINGS",
    "LABEL",
    "NOT_TOLD",
    "SYSTEMS",
    "Named",
    "doubtful_names",
    "is_ignored",
    "patient_key",
    "read_description",
    "read_name",
    "stem_of",
    "unknown_words",
    "variant_words",
]

ENDINGS = (".nii.gz", ".nii", ".mha", ".nrrd", ".dcm")
LABEL = "label"
"""`Named.role` of a label map."""
NOT_TOLD = "of a sequence that its name does not tell"
"""`Named.why` of a name that says nothing."""

NAMED = 5
"""Unknown words that a warning names."""
ENTITY = re.compile(
    r"(sub|ses|acq|ce|rec|dir|run|echo|part|desc|space|res|label|hemi|den|task|mod|trc|inv|mt|recording|proc|atlas|from"
    r"|to|mode)-([a-z0-9+]+)"
)
"""A key and its value, as BIDS writes them."""
SYSTEMS = ("__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found")
"""Folders that a system keeps beside the user's."""


class Named(NamedTuple):
    """What the name of a file says."""

    role: str | None
    """A modality of the task, ``LABEL``, or None where the file is neither, or its name does not tell."""
    why: str
    """Where ``role`` is None: what the file seems to be, to go on after "not used: FILE is ..."."""
    patient: str
    """What stands before the words of the sequence: whose file it is, "" where the name does not say."""


def stem_of(name: str) -> str:
    """A file's name without the endings of images."""
    for ending in ENDINGS:
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return name


def variant_words(name: str) -> tuple[str, ...]:
    """The words in a file's name that say that it is a corrected or an unstripped form of another file."""
    words = _words(_plain(stem_of(name)))
    return tuple(word for word in words if re.search(rf"(?<![a-z])({'|'.join(VARIANTS.split())})", word))


def patient_key(name: str) -> str:
    """What two names of one patient have in common."""
    return name.strip(" _-.").lower()


def is_ignored(name: str) -> bool:
    """Whether a file or folder is not the user's own: hidden, or what macOS, Windows or a NAS keep beside."""
    return name.startswith(".") or name in SYSTEMS


def read_description(text: str, task: Task, contrast_agent: bool = False) -> tuple[str | None, str]:
    """The ``role`` and the ``why`` of `Named`, of a DICOM series, whose description names no patient.

    Args:
        text: the description.
        task: whose modalities and aliases count.
        contrast_agent: whether the header names one; it makes a T1 a T1c where the description is silent.
    """
    return _read(_plain(text), task, contrast_agent, True)


def unknown_words(name: str, task: Task, whose: str = "") -> tuple[str, ...]:
    """The words behind the sequence's in the name of a file or series that none of the tables has.

    A site, a person, or what the image is beside its sequence: who takes the file all the same says so.

    Args:
        name: of the file, or the description of the series.
        task: whose aliases are known.
        whose: the patient and the folders, whose words are known.
    """
    words = _words(_plain(stem_of(name)))
    sequences = _sequence_words() | _set(T1C)
    own = {token for m in task.modalities for alias in (m.name, *m.aliases) for token in _tokens(_plain(alias))}
    first = next((k for k, word in enumerate(words) if word in sequences | own), len(words))
    known = _lexicon() | _set(HARMLESS) | own | set(_tokens(_plain(whose)))
    behind = dict.fromkeys(words[first + 1 :])
    return tuple(word for word in behind if len(word) > 1 and word not in known and not MEASURED.fullmatch(word))


def doubtful_names(read: Iterable[tuple[str, str, Sequence[str]]]) -> str:
    """A line on names that were read in spite of words that are not known; "" where there are none.

    Args:
        read: of each file its name, the sequence it was read as, and its `unknown_words`.
    """
    by_word: dict[str, list[str]] = {}
    for name, role, words in read:
        if words:
            by_word.setdefault(", ".join(f"'{word}'" for word in words), []).append(f"{name} as {role}")
    texts = [
        f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''} (not known: {words})"
        for words, names in list(by_word.items())[:NAMED]
    ]
    rest = f", and {len(by_word) - NAMED} words more" if len(by_word) > NAMED else ""
    return (
        f"read in spite of words that are not known: {', '.join(texts)}{rest}; take out what is not a plain image of it"
        if texts
        else ""
    )


def read_name(name: str, task: Task, patient: str = "") -> Named:
    """What a file of this name holds.

    ``BraTS20_001_t1ce.nii.gz``, ``sub-01_ce-gadolinium_T1w.nii.gz``, ``AX T1 POST GAD.nii`` are all ``t1c``;
    ``t2_tirm_tra_dark-fluid`` is ``flair``; ``FLAIR_space-T1w`` and ``flair_to_t1`` are ``flair``, in the space of T1.

    Args:
        name: of the file, with or without its ending.
        task: whose modalities and aliases count; a word of its aliases is never held against a file.
        patient: the name of the patient's folder, which is not part of what names the sequence.
    """
    stem = _plain(stem_of(name))
    beginning = _plain(patient)
    if beginning and stem.startswith(beginning) and re.match(r"[_\-. ]+.", stem[len(beginning) :]):
        rest, before = stem[len(beginning) :].lstrip("_-. "), stem_of(name)[: len(patient)]
    else:
        rest, before = stem, ""
    bids = re.match(r"(sub-[a-z0-9+]+)(_ses-[a-z0-9+]+)?(?=_|$)", rest)
    whose = stem_of(name)[len(stem) - len(rest) :][: bids.end()] if bids else before or _before(stem_of(name), task)
    if not bids and not before and _tokens(_plain(whose)):
        words = _words(_plain(whose)) or [""]
        if words[0] == "deformation" or (words[0] in _derived() and not "".join(words[1:2]).isdigit()):
            whose = re.sub(r"^[^_\-. ]+[_\-. ]*", "", whose)
        elif not _said(words, False) and not _is_after(words):
            rest = stem[len(whose) :]
    role, why = _read(rest, task, False, False)
    return Named(role, why, whose.rstrip("_-. "))


@lru_cache(maxsize=4096)
def _read(rest: str, task: Task, contrast_agent: bool, is_series: bool) -> tuple[str | None, str]:
    words = _words(rest)
    role, why = _role(words, _tokens(rest), task, contrast_agent)
    for what, table in IN_FILES.items() if role not in (None, LABEL) and not is_series else ():
        if found := set(words) & _set(table):
            role, why = None, f"{what} ({', '.join(sorted(found))})"
    return role, why


def _plain(text: str) -> str:
    """Lower case, without accents; as long as it was."""
    folded = (unicodedata.normalize("NFKD", letter).lower() for letter in text)
    return "".join(letter[0] if letter else " " for letter in folded)


@lru_cache
def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


@lru_cache
def _sequence_words() -> frozenset[str]:
    return frozenset(word for table in SEQUENCES.values() for word in table.split())


@lru_cache
def _lexicon() -> frozenset[str]:
    """All words of the tables."""
    tables = (*SEQUENCES.values(), CONTRAST, NATIVE, NEGATIONS, EVENTS, *EXCLUDED.values(), VARIANTS, NEUTRAL, SPACES)
    tables = (*tables, MARKERS, LABELS, NO_LABELS, *IN_FILES.values(), UNCLEAR)
    words = {word for table in tables for word in table.split() if len(word) > 1}
    return frozenset(words)


@lru_cache
def _pieces() -> tuple[str, ...]:
    """The words that a longer token may be made of, longest first."""
    words = _lexicon()
    apart = _set(MARKERS) | _set("and the with mit con avec com non")  # these, and other short ones, are whole tokens
    apart |= {word for word in words if len(word) < 3} - _set("t1 t2 ce gd km ax 3d 2d fs se gm wm")
    return tuple(sorted(words - apart, key=lambda word: (-len(word), word)))


@lru_cache(maxsize=4096)
def _split(token: str) -> tuple[str, ...] | None:
    """The known pieces that a token is made of; None where something of it is not known."""
    if token in _lexicon():
        return (token,)
    if after := re.fullmatch(r"(post)(\d{1,4})", token):
        return after.groups()
    numbered = re.fullmatch(r"(t[12]w|\D+)\d{1,2}", token)
    if numbered and numbered[1] in _pieces() and not re.fullmatch(r"t|p|v", numbered[1]):
        return (numbered[1],)
    if len(token) < 3 or len(token) > 40:
        return None
    # A letter or two may stand for contrast after T1 ("t1c"), and only whole words may be a long token's pieces.
    for piece in _pieces():
        if token.startswith(piece) and len(piece) < len(token):
            rest = token[len(piece) :]
            if piece in ("t1", "t1w") and rest in ("c", "cm", "p", "g"):
                return (piece, "contrast") if rest == "c" else None
            if (more := _split(rest)) is not None and not rest.isdigit():
                return (piece, *more)
    return ("mask",) if re.fullmatch(r"[a-z]{6,}masks?", token) else None


_SCRIPTS = (
    (r"(?:без|до)[ _]контраст\w*|平扫|平掃|単純|非造影|조영[ _]?전", " native "),
    (r"контраст\w*|(?<![平非])增强|增強|造影剤?|조영(?:[ _]?후|증강)?", " contrast "),
    (r"减影|減影", " subtraction "),
)
"""Words in other letters than Latin ones."""
_BOTH = " contrast without contrast "
_JOIN = "(?:[ _]*(?:[/&+]|and|und|et|y|e|en)[ _]*)+"
_SPELLINGS = [
    (re.compile(re.sub("(?<!\\?)<", "(?<![a-z0-9])", pattern).replace(">", "(?![a-z0-9])").replace("&", _JOIN)), word)
    for pattern, word in (
        *((_plain(f"(?:{pattern})"), word) for pattern, word in _SCRIPTS),
        ("<(?:pre|before|vor|avant|prima|voor)&(?:post|after|nach|apres|dopo|na)>|<pre[_ -]?post>", _BOTH),
        ("<(?:with|w|mit|avec|con|met)&(?:without|wo|w/o|ohne|sans|senza|sin|zonder)>|<w[ _]wo>", _BOTH),
        ("<(?:without|wo|w/o|ohne|sans|senza|sin|zonder)&(?:with|w|mit|avec|con|met)>", _BOTH),
        (r"\+[ _]*/[ _]*-|<c-[ _]*c\+", _BOTH),
        ("<w[ _]*/[ _]*o>", " without "),
        (r"t2[ _]*\*|t2[_\- ]star>", " t2star "),
        (r"\+[ _]*(c|ca|gd|gad|gado|gadolinium|km|ce|k|contrast)>|<c\+", " contrast "),
        (r"(t1w?)[ _]*\+(?=$|[ _.\-])", r"\1 contrast "),
        (r"(?<=[ _])-(?:c|ca|km|gd|gad)>|(?:<|(?<=t1)|(?<=t1w))(?:c|ca|km|gd|gado?|iv)-(?=[ _)]|$)|<s/c>", " native "),
        (r"<iv\+|\+iv>|<c/(?:c>|(?=gd|gad|contras))|<with$", " contrast "),
        ("<s(?:/|[. _]+)(?=gd>|gad|contras|mdc>|civ>)", " sin "),
        ("<kontrastmittel[a-z]*|<gado(?!flair)[a-z]+", " contrast "),
        ("(?:<|(?<=t1)|(?<=t1w))(?:without|wo|non?)(?=gd>|gad|contras|km>|ca?>)", " without "),
        (r"<(?:without|w/?o|non?|pre|before|ohne)[ _-]*ca>", " native "),
        ("(?:<|(?<=t1))(?:post|after|with|w)[ _-]*ca>", " contrast "),
        ("<t1w?-(?=t1(?:c|ce|gd|km)>)", " subtraction "),
        ("(?:<|(?<=t1))with(?=gd>|gad|contras|km>|ca?>)|<wc>|(?<=t1)[ _-]?pc>", " contrast "),
        ("(?<=mp2rage)(.*)t1[ _]images", r"\1 map "),
        ("bias[ _]?field[ _]?corr[a-z]*", " n4 "),
        ("da-fl>|dark[_ -]?fluid", " darkfluid "),
        ("fluid[_ -]attenuated", " fluidattenuated "),
        ("proton[_ -]density", " protondensity "),
        (
            "(t1(?:w|c|ce|gd|n)?|t2w?|flair|pdw?)(?:reg)?(?:2|to|onto|in)(?=t1|t2|flair|mni|sri|atlas|template|native)",
            r"\1 to ",
        ),
        ("<(?:s?m?w?|w)c[1-6](?=t1|t2|flair|sub-|_t1|_t2)|<m?w?p[0-6](?=t1|t2|flair|sub-)", " tissue "),
        ("^i?y_", " deformation "),
        ("<bet_skull>", " mask "),
        ("<mp(2?)[ _-]rage>", r"mp\1rage"),
        ("<(gold|reference)[ _-]standard>", r" \1standard "),
        ("<ground[ _-]truth>", " groundtruth "),
        ("<gradient(?:en)?[ _-]*(?:re[ck]alled[ _-]*)?echo>", " gre "),
        (r"<grad(?:ient)?[ _-]*(?:unwarp|warp|dist|nonlin|corr)[a-z]*", " "),
        ("<posterior[ _-](?=fossa)", " "),
        ("<pet[ _/-]?mri?>", " "),
        ("<(?:r|w|m|u|s|rm|wm|mr|rr|wr|sw|swr)(?=(?:t1|t2|flair)(?:w|c|ce)?>)", " "),
        ("<reg2>|<(?:co)?reg(?:istered)?[ _]*(?=t1|t2|flair)|<(?:aligned|resampled)[ _]+(?=t1|t2|flair)", " to "),
        ("3[_ -]plane", " 3plane "),
    )
]
"""Spellings of more than one token, in one word each; the prefixes of SPM (rT1, c1T1) are among them. < and > are the
ends of a token, & joins what is both before and after contrast agent."""


@lru_cache
def _telling() -> frozenset[str]:
    """Words that say something of the sequence also in the acquisition or the description of BIDS."""
    words = " ".join((CONTRAST, NATIVE, SEQUENCES["flair"], *EXCLUDED.values(), NO_LABELS, TUMORS, "gtv"))
    return _set(words) - _set("brain skull")


@lru_cache
def _images() -> frozenset[str]:
    """Words of what an image is, other than a plain sequence."""
    return frozenset().union(*map(_set, EXCLUDED.values()))


@lru_cache
def _derived() -> frozenset[str]:
    """Words that, before a patient's name, say that an image was made of the patient's: mask_anna_T1."""
    tables = (*(EXCLUDED[what] for what in ("a mask", "a segmentation", "a transformation")), LABELS)
    return frozenset(word for table in tables for word in table.split() if len(word) > 2)


def _is_after(words: Sequence[str]) -> bool:
    """Whether a name begins with POST01: the first after an operation, or after contrast agent."""
    return len(words) > 1 and words[0] == "post" and words[1].isdigit()


def _tokens(text: str) -> list[str]:
    return [token for token in re.split(r"[^a-z0-9]+", text) if token]


def _words(stem: str) -> list[str]:
    """The pieces of a name in their order; unknown tokens as they are."""
    kept = []
    for part in re.split(r"[_ ]+", stem):  # of entities only that of the contrast agent says something of the sequence
        entity = ENTITY.fullmatch(part)
        if not entity or (entity[1] == "ce" and _split(entity[2]) and entity[2] not in _set(CONTRAST + " none no pre")):
            kept.append(part)
        elif entity[1] == "ce":
            kept.append("native" if entity[2] in ("none", "no", "pre", "0") else "contrast")
        elif entity[1] == "inv":
            kept.append("inv1")
        elif entity[1] == "part" and entity[2] in ("phase", "real", "imag"):
            kept.append("phase")
        elif entity[1] in ("acq", "rec", "desc", "label"):
            kept += [piece for piece in _split(entity[2]) or (entity[2],) if piece in _telling()]
    text = "_".join(kept)
    for pattern, word in _SPELLINGS:
        text = pattern.sub(word, text)
    return [piece for token in _tokens(text) for piece in (_split(token) or (token,))]


def _before(stem: str, task: Task) -> str:
    """The beginning of a name up to the words that tell its sequence: the patient."""
    text = re.sub(r"(?<![a-z0-9])(gold|reference|ground)[ _-](standard|truth)(?![a-z0-9])", r"\1\2_", _plain(stem))
    aliases = {token for m in task.modalities for alias in (m.name, *m.aliases) for token in (alias, *_tokens(alias))}
    spans = [(found.start(), found.group()) for found in re.finditer(r"[a-z0-9]+", text)]
    known = [token in aliases or _split(token) is not None for _, token in spans]
    if len(spans) > 1 and spans[0][1] not in aliases and _is_numbered(spans[0][1]):
        known[0] = False
    k, told = len(spans), False
    while k and (known[k - 1] or (spans[k - 1][1].isdigit() and not told) or _is_c(spans, k - 1)):
        k -= 1
        told = told or known[k]
    if not told or (k and spans[k][0] and stem[: spans[k][0]].lstrip().startswith("+")):
        return ""
    # A number, or a lone letter, before the words is the end of a patient's name; so is a known word before a number.
    return stem[: spans[k][0]] if k < len(spans) else stem


def _is_numbered(token: str) -> bool:
    """Whether the first word of a name, a word and a number, is whose it is: patient01, scan1, P2, PET01."""
    found = re.fullmatch(r"([a-z]+)(\d+)", token)
    if found is None:
        return False
    word, number = found.groups()
    if len(number) > 1 and len(word) > 1 and word in _images() - _derived():
        return True
    return token in _set("p2 p3 p4 v1 v2") or (token not in _lexicon() and word in _set(f"{NEUTRAL} {SPACES}"))


def _is_c(spans: Sequence[tuple[int, str]], k: int) -> bool:
    """Whether a token is the c of "T1 c"."""
    return spans[k][1] == "c" and k > 0 and spans[k - 1][1] in ("t1", "t1w")


def _role(words: list[str], tokens: list[str], task: Task, contrast_agent: bool) -> tuple[str | None, str]:
    own = _own(tokens, task)
    lifted = {word for alias in own.values() for word in (alias, *_tokens(alias), *(_split(alias) or ()))}
    if words and words[-1] == "gd" and not {"t1", "t1c"} & set(_concepts(task).values()):  # MyoPS, of a gold standard
        return LABEL, ""
    words = _without_target(_without_events(words))
    said = set(words) - lifted
    if "wmh" in said and (words[-1] == "wmh" or not _said(words, contrast_agent)):
        return LABEL, ""
    is_mask = bool(said & _set(EXCLUDED["a mask"]) - {"brainmask"})
    if said & _set(LABELS) or (said & _set(TUMORS) and is_mask):
        right = {word for one in task.classes for word in _tokens(_plain(one.title))}
        right |= {"brain"} if said & _set(TUMORS) else set()
        wrong = said & _set(NO_LABELS) - right
        return (None, f"another segmentation ({', '.join(sorted(wrong))})") if wrong else (LABEL, "")
    asked = _asked_kinds(own.values())
    for what, table in EXCLUDED.items():
        if what not in asked and (found := said & _set(table)) and not _is_flair(words, found):
            return None, f"{what} ({', '.join(sorted(found))})"
    concepts = _said(words, contrast_agent)
    if concepts and any(a == "sub" and not b.isdigit() for a, b in pairwise([*words, ""])):
        return None, "a difference image (sub)"
    by_concept = {concept: m for m, concept in reversed(_concepts(task).items())}
    found_in_task = {by_concept[c] for c in concepts if c in by_concept} | set(own)
    if len(own) == 1 and not concepts - {_concepts(task).get(next(iter(own)), "")} - _implied(next(iter(own)), task):
        return next(iter(own)), ""
    if "t1?" in concepts:
        return None, "a T1 said to be both with and without contrast agent"
    if "t1 or t1c" in concepts:
        return None, "a T1 of which its name does not tell whether it is after contrast agent"
    if len(concepts) + len(set(own) - found_in_task) > 1 or len(found_in_task) > 1:
        return None, f"named after several sequences ({', '.join(sorted(concepts | set(own)))})"
    if found_in_task:
        return found_in_task.pop(), ""
    if concepts:
        names = {"t1": "a T1 without contrast agent", "t1c": "a T1 after contrast agent", "t2": "a T2"}
        concept = concepts.pop()
        return None, f"{names.get(concept, f'a {concept.upper()}')}, which {task.name} does not use"
    return None, NOT_TOLD


def _asked_kinds(aliases: Iterable[str]) -> set[str]:
    """Of ``EXCLUDED`` the kinds whose words say no more than an alias of the task in the same name: ep2d_diff_ADC."""
    words = {word for alias in aliases for word in _tokens(alias)}
    asked = {what for what, table in EXCLUDED.items() if words & _set(table)}
    if any(re.fullmatch(r"b\d{2,4}", word) for word in words):
        asked.add("a diffusion image")
    return asked | ({"a map"} if asked else set())


def _said(words: list[str], contrast_agent: bool) -> set[str]:
    """The sequences that the words name: t1, t1c, t2, flair, pd; "t1?" for one with and without contrast agent,
    "t1 or t1c" for one that may be either."""
    kinds = [next((kind for kind, table in SEQUENCES.items() if word in _set(table)), None) for word in words]
    first = next((k for k, kind in enumerate(kinds) if kind), len(words))
    first = min([first, *(k for k, word in enumerate(words) if word in _set(T1C))])
    found = {kind for k, kind in enumerate(kinds) if kind and not _is_id(words, k, first)}
    contrast, native, k = False, False, 0
    while k < len(words):
        word, after = words[k], words[k + 1] if k + 1 < len(words) else ""
        if _is_id(words, k, first):
            k += 1
        elif word in _set(NEGATIONS) and after in _set(CONTRAST):
            native, k = True, k + 2
        else:
            contrast |= word in _set(CONTRAST) or (word in ("c", "ca") and k > 0 and kinds[k - 1] == "t1")
            native |= word in _set(NATIVE) or word in ("without", "wo", "ohne", "sans", "senza", "t1n")
            k += 1
    if set(words) & _set(T1C):
        found.add("t1")
    if "flair" in found:
        if [kind for kind in kinds if kind] == ["t1", "flair"]:
            found = {"t1"}  # a T1 FLAIR, as GE calls it
        else:
            found -= {"t2"}
    if "t2" in found and set(words) & {"ffe", "fl2d", "fl3d", "flash", "gre", "eg"}:
        return {"T2*"}
    if "t2" in found and set(words) & {"ir", "tir"}:
        return {"T2 with inversion recovery"}
    if "t1" in found:
        found.remove("t1")
        again = any(a in _set(CONTRAST) and b in ("t1", "t1w", "t1n") for a, b in pairwise(words[first + 1 :]))
        again &= kinds[first] == "t1"  # T1c - T1
        unclear = _is_after(words) or (bool(set(words[:first]) & _set(UNCLEAR)) and kinds[first] == "t1")
        if contrast and (native or again):
            found.add("t1?")
        elif contrast or (contrast_agent and not native):
            found.add("t1c")
        else:
            found.add("t1 or t1c" if unclear and not native else "t1")
    return found


def _is_id(words: list[str], k: int, first: int) -> bool:
    """Whether a word before those of the sequence is part of a patient's number: CE_001, PD 12."""
    short = words[k] in ("ce", "gd", "km", "ca", "pd", "pre", "post")
    return short and k <= first and k + 1 < len(words) and words[k + 1].isdigit()


def _is_flair(words: Sequence[str], found: set[str]) -> bool:
    """Siemens calls its FLAIR "tirm dark-fluid"."""
    return found <= {"tirm"} and bool(set(words) & _set(SEQUENCES["flair"]))


def _without_events(words: list[str]) -> list[str]:
    """Without "pre treatment" and "post op", which say when, not what; and without "native space"."""
    kept: list[str] = []
    k = 0
    while k < len(words):
        after = words[k + 1] if k + 1 < len(words) else ""
        is_when = words[k] in ("pre", "post", "intra", "after", "before") and after in _set(EVENTS)
        if is_when or (words[k] in _set(SPACES) and after == "space"):
            k += 2
        else:
            kept.append(words[k])
            k += 1
    return kept


def _without_target(words: list[str]) -> list[str]:
    """Without the space that an image was brought to: "flair to t1", "t2 in mni", "flair t1 space"."""
    sequence = _sequence_words() | {"ct1"}
    contrast = _set(CONTRAST) | {"c"}
    for k, word in enumerate(words):
        before, after = words[:k], words[k + 1 :]
        if k == 0 and word in ("to", "onto", "into", "in") and set(after) & sequence:
            return []  # of what was brought there, the name says nothing
        if not set(before) & sequence:
            continue
        is_number = word in ("2", "reg2") and bool(after) and after[0] in sequence  # "flair 2 t1"
        is_marked = (word in _set(MARKERS) or is_number) and set(after) & (sequence | _set(SPACES) | {"space"})
        if is_marked or (word == "space" and after and after[0] in sequence - {"flair", "darkfluid", before[-1]}):
            said = {w for table in (*EXCLUDED.values(), LABELS) for w in _set(table)} - _set(SPACES)
            return before + [w for w in after if w in said]
        if word == "space":
            start = k - 1
            while start > 0 and words[start] in contrast:
                start -= 1
            if words[start] in sequence - _set(SEQUENCES["flair"]) and set(words[:start]) & sequence:
                return words[:start] + after
    return words


@lru_cache
def _concepts(task: Task) -> dict[str, str]:
    """Modality -> the sequence that its name, or else one of its aliases, means to the grammar."""
    meant: dict[str, str] = {}
    for m in task.modalities:
        for alias in (m.name, *m.aliases):
            words = _words(alias)
            if (
                not any(set(words) & _set(table) for table in EXCLUDED.values())
                and len(found := _said(words, False)) == 1
            ):
                meant[m.name] = found.pop()
                break
    return meant


def _own(tokens: Sequence[str], task: Task) -> dict[str, str]:
    """Modality -> its alias in a name, of what only the task knows: ADC, CT, bSSFP. Two letters count at the end."""
    found: dict[str, str] = {}
    for m in task.modalities:
        concept = _concepts(task).get(m.name)
        for alias in (m.name, *m.aliases):
            words = _tokens(alias)
            if concept and _said(_words(alias), False) == {concept}:
                continue
            at = [k for k in range(len(tokens)) if list(tokens[k : k + len(words)]) == words]
            if words and at and (len(alias) > 2 or at[-1] + len(words) == len(tokens) or len(tokens) == 1):
                found[m.name] = alias
    return found


def _implied(modality: str, task: Task) -> set[str]:
    """The sequences that the aliases of a modality mention, which it may be named with."""
    m = next(m for m in task.modalities if m.name == modality)
    return {concept for alias in (m.name, *m.aliases) for concept in _said(_words(alias), False)}
