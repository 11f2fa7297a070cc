import pytest

from tests.reporting.made_up import write_run


@pytest.fixture
def make_run(tmp_path):
    """`write_run` for a name below the test's own folder."""
    return lambda name, **options: write_run(tmp_path / name, **options)


@pytest.fixture(autouse=True)
def undrawn(request, monkeypatch):
    """Figures are made and not rendered, which takes most of a report's time, but for tests that ask for ``drawn``."""
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda self, file, **_: file.write(b"\x89PNG"))
