"""The documentation: its site builds without a warning, its words are spelled right, and mean one thing."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "Makefile")),
    *sorted(path for folder in ("docs", "configs") for path in (ROOT / folder).rglob("*.md")),
    *sorted(
        path
        for path in (ROOT / "monai_passion").rglob("*.py")
        if path.name not in ("labels.py", "naming.py", "vocabulary.py")
    ),
]
THINGS = "one|row|column|value|bool|channel|folder|file|image|volume|slice|number|score|rate|iterations|items"
"""Of which there is one, or are some, per something."""
PHRASES = {
    r"\bgoes before\b": "takes precedence over",
    r"\bis no name\b": "is not a name",
    r"\bWhat a person turns\b": "The settings you are most likely to change",
    r"\bReasons to doubt\b": "Plausibility checks",
    r"\bis none of\b": "is not one of",
    r"(?<!there )\b(are|is) no (NIfTI|JSON|DICOM|bundle|folder|label|name|number|whole numbers)\b": "is not a ...",
    r"\bwho lacks what\b": "presence table, random seed of the draw",
    rf"\b({THINGS}) an? (modality|patient|case|sequence|class|region|axis|line|row|epoch|machine)\b": "one per ...",
    r"\b(colour|tumour|oedema|normalis|optimis(?!t)|initialis)\w*": "American spelling",
    r"\b(grey|centre|behaviour|licence|neighbour)\w*": "American spelling",
}
"""What we do not write -> what we write."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_pages_use_the_words_of_the_field(page):
    text = re.sub(r"```.*?```|`[^`]*`", "", page.read_text(encoding="utf-8"), flags=re.S)
    found = [f"{m.group(0)} -> {better}" for pattern, better in PHRASES.items() for m in re.finditer(pattern, text)]
    assert not found


def test_words_are_spelled_right():
    paths = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs", "monai_passion", "configs"]
    run = subprocess.run([sys.executable, "-m", "codespell_lib", *paths], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout


def test_the_site_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    page = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert "Research use only, not a medical device" in page
    fetched = re.findall(r'(?:src|href)="(https?://[^"]+(?:\.(?:js|css|woff2?)|shim))"', page)
    assert not fetched  # it opens without a network


@pytest.mark.browser
def test_the_site_is_searched_where_it_is_opened_from_a_folder(tmp_path, browser):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    subprocess.run(command, cwd=ROOT, check=True)
    page = browser.new_page()
    page.goto((tmp_path / "site" / "index.html").as_uri())
    page.locator("input.md-search__input").fill("missing rates")
    page.locator(".md-search-result__link").first.click(timeout=20000)
    page.wait_for_url("**/train-on-incomplete-data.html*")


def test_every_setting_of_a_configuration_is_explained_and_nothing_else():
    meanings = json.loads((ROOT / "docs" / "reference" / "settings.json").read_text(encoding="utf-8"))
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "hooks.py")
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    files = [
        path
        for part in ("train", "evaluate", "inference", "multi_gpu_train")
        for path in (ROOT / "bundles").glob(f"*/configs/{part}.json")
    ]
    files += hooks.fragments()
    keys = {key.lstrip("+").split("#")[0] for path in files for key in json.loads(path.read_text(encoding="utf-8"))}
    assert keys - set(meanings) == set()
    assert set(meanings) - keys == set()
    page = "\n".join(hooks._settings())
    assert [
        key for key in ("epochs", "mlp", "degraded_rates", "gamma", "level_decay") if f"| `{key}` |" not in page
    ] == []
    assert all(text.endswith(".") and len(text) < 200 for text in meanings.values())
