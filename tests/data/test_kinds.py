"""The table of kinds of bad input in docs/reference/data.md."""

from collections import Counter
from importlib import import_module
from pathlib import Path

from tests.data.kinds import KINDS, siblings, table


def test_the_table_in_the_docs_is_the_one_the_command_prints():
    tried = Counter()
    for _, file, test in KINDS.values():
        room = Path(file).parent.name or "data"
        tried[test] = siblings(getattr(import_module(f"tests.{room}.{Path(file).stem}"), test))
    page = Path(__file__).parents[2] / "docs" / "reference" / "data.md"
    assert table(tried, tried) in page.read_text(encoding="utf-8")
