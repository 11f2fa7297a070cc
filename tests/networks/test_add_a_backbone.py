"""Runs the page ``docs/how-to/add-a-backbone.md``: its classes, its contract test and its configuration."""

import json
import re
import sys
from pathlib import Path
from types import ModuleType

from monai.bundle import ConfigParser

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "add-a-backbone.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
LATE_FUSION = sys.modules["late_fusion"] = ModuleType("late_fusion")  # where the page saves its first block
exec(PYTHON[0], LATE_FUSION.__dict__)
exec(PYTHON[1])  # the page's test class is collected here as if it were written here


def test_the_page_adds_one_in_under_60_lines():
    assert len("".join(PYTHON).splitlines()) < 60


def test_the_configuration_of_the_page_builds_the_network():
    (config,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    network = ConfigParser(json.loads(config)).get_parsed_content("network_def")
    assert (type(network), network.num_modalities) == (LATE_FUSION.LateFusion, 4)
