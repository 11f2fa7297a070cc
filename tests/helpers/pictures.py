"""Pictures, which take more time than all else of a small phantom or a made-up run."""

import numpy as np
import pytest

from monai_passion.prediction import run

__all__ = ["drawn", "undrawn"]


@pytest.fixture
def drawn():
    """For tests that look at pictures: they are drawn."""


@pytest.fixture(autouse=True)
def undrawn(request, monkeypatch):
    """A gray square in place of the picture of `predict`, for other tests of a folder whose conftest imports this."""
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr(run, "preview", lambda *_: np.full((8, 8, 3), 127, np.uint8))
