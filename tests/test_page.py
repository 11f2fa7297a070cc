import json
import re
import shutil
import subprocess

import matplotlib.image
import nibabel as nib
import numpy as np
import pytest

from monai_passion.prediction.bundle import Segmentation
from monai_passion.prediction.page import make_page
from monai_passion.prediction.report import make_report


@pytest.fixture
def page(tmp_path):
    grid = np.stack(np.meshgrid(*(np.linspace(-1.2, 1.2, 40),) * 3, indexing="ij"))
    head = np.where((grid**2).sum(0) < 1, np.random.default_rng(0).uniform(50, 99, (40,) * 3), 0).astype(np.float32)
    labels = np.where(((grid - 0.3) ** 2).sum(0) < 0.15, 4, 0).astype(np.uint8)
    report = make_report(
        Segmentation(labels, None, {}, {}),
        np.eye(4),
        {1: "NCR/NET", 2: "ED", 4: "ET"},
        {"WT": [1, 2, 4]},
        bundle={"name": "bundle", "version": "1"},
        weights={"file": "</script><b>x.pt", "sha256": "0" * 64},
        device="cpu",
        modalities={"used": ["flair", "t1"], "absent": ["t2"], "reference": "flair"},
        expected_quality=[],
        remarks=[{"level": "warning", "text": "t1 is odd"}],
    )
    path = tmp_path / "report.html"
    path.write_text(make_page({"flair": head, "t1": 100 - head}, labels, np.eye(4), report), encoding="utf-8")
    return path, labels


def test_the_page_needs_no_network_and_text_cannot_break_out_of_its_data(page):
    text = page[0].read_text(encoding="utf-8")
    own = text[: text.index("<script>")] + text[text.rindex("<script>") :]
    assert not re.search(r'(src|href)\s*=\s*"|url\(|@import', own)
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1]
    assert json.loads(data)["report"]["weights"]["file"] == "</script><b>x.pt"


def test_the_page_holds_the_segmentation_itself(page, tmp_path):
    import base64

    text, labels = page[0].read_text(encoding="utf-8"), page[1]
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    (tmp_path / "s.nii.gz").write_bytes(base64.b64decode(data["labels"]))
    assert np.array_equal(np.asarray(nib.load(tmp_path / "s.nii.gz").dataobj), labels)
    assert [image["name"] for image in data["images"]] == ["FLAIR", "T1"]


@pytest.mark.browser
def test_a_browser_shows_the_images_and_the_overlay_can_be_switched_off(page, tmp_path):
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium here; on Debian: apt-get install chromium")
    command = [browser, "--headless=new", "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    command += [
        "--hide-scrollbars",
        "--window-size=1200,900",
        "--virtual-time-budget=20000",
        f"--user-data-dir={tmp_path}/c",
    ]

    def run(anchor, *more):
        url = f"file://{page[0]}{anchor}"
        return subprocess.run([*command, *more, url], capture_output=True, text=True, timeout=120, check=True).stdout

    assert 'data-state="ready"' in run("", "--dump-dom")
    shots = {}
    for anchor in ("", "#plain"):
        path = tmp_path / f"shot{len(shots)}.png"
        run(anchor, f"--screenshot={path}")
        shots[anchor] = matplotlib.image.imread(path)[:600, :700, :3]
    coloured = {anchor: (np.ptp(shot, axis=2) > 0.15).sum() for anchor, shot in shots.items()}
    assert coloured[""] > coloured["#plain"] + 1000
