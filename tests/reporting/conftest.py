import pytest

from tests.reporting.made_up import write_run


@pytest.fixture
def make_run(tmp_path):
    """`write_run` for a name below the test's own folder."""
    return lambda name, **options: write_run(tmp_path / name, **options)
