"""Links in what people read lead somewhere."""

import json
import re
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+)\)|^\[[^\]]+\]: (\S+)$", re.M)
TRACKED = subprocess.run(
    ["git", "ls-files", "*.md", "*.ipynb"], cwd=ROOT, capture_output=True, text=True
).stdout.split()
PAGES = [ROOT / name for name in TRACKED if not name.startswith("configs/")]
FILLED = ("<!-- commands -->", "<!-- settings -->", "::: ")
"""Marks of pages whose headings are made when the site is built."""


def markdown(path):
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return re.sub(r"```.*?```|`[^`\n]*`", "code", text, flags=re.S)


def links(path):
    return [first or second for first, second in LINK.findall(markdown(path))]


def anchors(path):
    text = path.read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.S), flags=re.M)
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


def problem(page, link):
    parts = urlsplit(link)
    if parts.scheme:
        known = parts.scheme in ("https", "mailto") and ("." in parts.netloc or parts.scheme == "mailto")
        return None if known else "not a web address"
    target = (page.parent / parts.path).resolve() if parts.path else page
    if not target.exists() and target.suffix == ".md" and target.parent.name == "notebooks":
        target = target.with_suffix(".ipynb")
    if not target.exists():
        return "no such file"
    if parts.fragment and parts.fragment not in anchors(target):
        text = target.read_text(encoding="utf-8")
        return None if any(mark in text for mark in FILLED) else "no such heading"
    return None


@pytest.mark.skipif(not PAGES, reason="not a git checkout")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files_and_headings_that_exist(page):
    assert {link: fault for link in links(page) if (fault := problem(page, link))} == {}


def test_every_page_of_the_documentation_is_linked_from_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = [
        path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.*") if path.suffix in (".md", ".ipynb")
    ]
    assert [page.as_posix() for page in pages if page.with_suffix(".md").as_posix() not in navigation] == []


@pytest.mark.parametrize(
    ("link", "fault"),
    [("gone.md", "no such file"), ("#nowhere", "no such heading"), ("http://x", "not a web address")],
)
def test_a_dead_link_is_found(link, fault):
    assert problem(ROOT / "CONTRIBUTING.md", link) == fault
