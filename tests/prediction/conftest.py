import numpy as np
import pytest

from monai_passion.prediction import run


@pytest.fixture(autouse=True)
def undrawn(request, monkeypatch):
    """A gray square in place of the picture, which takes most of a phantom's time, but for tests with ``drawn``."""
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr(run, "preview", lambda *_: np.full((8, 8, 3), 127, np.uint8))
