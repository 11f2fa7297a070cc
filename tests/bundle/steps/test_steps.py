import re
from pathlib import Path

from monai_passion.bundle import steps


def test_the_steps_are_all_that_configurations_call():
    folder = Path(__file__).parents[3] / "configs"
    texts = "".join(path.read_text(encoding="utf-8") for path in folder.rglob("*.json"))
    called = set(re.findall(r"(?:workflow|bundle\.steps)\.(\w+)", texts))
    assert called == set(steps.__all__)
    assert all(hasattr(steps, name) for name in called)
