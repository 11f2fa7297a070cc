"""The table of kinds of input in docs/reference/data.md."""

from collections import Counter
from importlib import import_module

from tests.data.kinds import KINDS, TESTS, table, variants


def test_the_table_in_the_docs_is_the_one_the_command_prints():
    tried = Counter()
    for file, test in KINDS.values():
        module = import_module(f"tests.{file.removesuffix('.py').replace('/', '.')}")
        tried[test] = variants(getattr(module, test))
    page = TESTS.parent / "docs" / "reference" / "data.md"
    assert table(tried, tried) in page.read_text(encoding="utf-8")
