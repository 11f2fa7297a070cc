"""The commands that the READMEs print, run as they stand there, on patients who lack sequences."""

import json
import re
import shlex
import shutil

import fire
import monai.bundle
import pytest
from monai.bundle import ConfigParser

from monai_passion.cli import main
from tests.bundles.conftest import BUNDLES, NAMES, QUICK, ROOT, row_of, small

FILES = {"flair": "flair", "t2": "t2", "FLAIR": "flair", "T1": "t1", "BSSFP": "C0", "T2": "T2"}


def commands(path, **variables):
    """Command lines of a Markdown file's blocks in words, with $B replaced."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", path.read_text(), re.DOTALL | re.MULTILINE)
    text = "\n".join(block for language, block in blocks if not language).replace("\\\n", " ")
    for line in text.splitlines():
        if found := re.fullmatch(r"(\w+)=(\S+)", line):
            variables[found[1]] = found[2]
        elif line.startswith(("python -m monai.bundle", "monai-passion ")):
            for name, value in variables.items():
                line = line.replace(f"${name}", value)
            yield shlex.split(line)


def run(words):
    if words[0] == "monai-passion":
        assert main(words[1:]) == 0, words
    else:
        fire.Fire({"run": monai.bundle.run}, command=words[3:])


@pytest.fixture
def place(request, tmp_path, cohorts, monkeypatch):
    """The working directory: a bundle, small, and a cohort and a patient under the names that the READMEs use."""
    name, task = request.param, row_of(BUNDLES / request.param)["task"]
    bundle = shutil.copytree(BUNDLES / name, tmp_path / "bundles" / name)
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    for config in ("train", "evaluate", "inference"):
        path = bundle / "configs" / f"{config}.json"
        parser = ConfigParser(json.loads(path.read_text()))
        parser.update(small(row_of(bundle), config))
        path.write_text(json.dumps(parser.get()))
    (tmp_path / "DATA").symlink_to(cohorts[task])
    for file, suffix in FILES.items():
        (tmp_path / f"{file}.nii.gz").symlink_to(cohorts[task] / "case1" / f"case1_{suffix}.nii.gz")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(bundle))  # as `python -m monai.bundle run` does
    return tmp_path


@pytest.mark.parametrize("place", [NAMES[0]], indirect=True)
def test_those_of_the_project(place):
    (place / "model.pt").symlink_to(place / "RUN" / "model.pt")
    lines = [words for words in commands(ROOT / "README.md") if words[1] not in ("bundles", "task")]
    for words in sorted(lines, key=lambda words: words[1] == "predict"):
        run(words)
    assert (place / "REPORT" / "report.html").is_file()
    assert (place / "out" / "segmentation.nii.gz").is_file()


@pytest.mark.parametrize(
    "place", [pytest.param(name, marks=() if name == QUICK[1] else pytest.mark.slow) for name in NAMES], indirect=True
)
def test_those_of_a_bundle(place):
    (bundle,) = (place / "bundles").iterdir()
    for words in commands(bundle / "docs" / "README.md", B=str(bundle)):
        run(words)
    assert list((place / "OUT").glob("*_seg.nii.gz"))
    assert (place / "PATIENT" / "segmentation.nii.gz").is_file()
    assert len(list((place / "DATA").iterdir())) == 4
