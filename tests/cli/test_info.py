import json
import subprocess
import sys

from monai_passion.bundle.facts import known_bundles
from monai_passion.bundle.weights import shipped_weights
from monai_passion.cli import main

QUIET = """
import sys
from monai_passion.cli import main
code = main(["info", "--json"])
heavy = {"torch", "monai", "itk", "matplotlib", "pandas"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else code)
"""


def test_bundles_modalities_and_labels_are_listed_without_loading_torch():
    done = subprocess.run([sys.executable, "-c", QUIET], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    bundles = {row["name"]: row for row in json.loads(done.stdout)["bundles"]}
    assert sorted(bundles) == known_bundles()
    brain, heart = bundles["brats_mri_segmentation_rfnet_passion"], bundles["myops_cmr_segmentation_rfnet_passion"]
    assert [m["name"] for m in brain["modalities"]] == ["flair", "t1c", "t1", "t2"]
    assert "t1gd" in brain["modalities"][1]["aliases"]
    assert [label["value"] for label in brain["labels"]] == [0, 1, 2, 4]
    assert {"name": "TC", "values": [1, 4]} in brain["regions"]
    assert [label["value"] for label in heart["labels"]] == [0, 200, 500, 600, 1220, 2221]


def test_the_same_for_people(capsys):
    assert main(["info", "--bundle", "brats_mri_segmentation_rfnet_passion"]) == 0
    out = capsys.readouterr().out
    assert "sequences  flair, t1c, t1, t2" in out
    assert "0 background, 1 " in out.lower()


def test_weights_that_came_with_the_package_are_told(capsys):
    main(["info"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  weights")]
    for name, line in zip(known_bundles(), lines, strict=True):
        shipped = shipped_weights(name)
        assert (str(shipped) if shipped else f"train DATA --bundle {name}") in line
    assert shipped_weights("brats_mri_segmentation_rfnet_passion")


def test_a_bundle_that_is_not_there_is_a_usage_error(capsys):
    assert main(["info", "--bundle", "nowhere"]) == 2
    assert "no bundle 'nowhere'" in capsys.readouterr().err
