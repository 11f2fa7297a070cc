import gc
import os
import shutil
from pathlib import Path

import pytest
import torch

if "PYTEST_XDIST_WORKER" in os.environ:  # one thread per worker and per program it starts, or they fight over the cores
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")

os.fsync = lambda handle: None  # no test pulls the plug; those of the order of writing put their own in place

GOLDEN = Path(os.environ.get("MONAI_PASSION_GOLDEN", Path(__file__).parents[2] / "shared" / "golden"))


def pytest_collection_finish():
    gc.collect()
    gc.freeze()  # torch and MONAI are a million objects, which need not be looked at again and again


@pytest.fixture(autouse=True)
def _seeded():
    torch.default_generator.manual_seed(0)  # torch.manual_seed writes the stack down, for GPUs that may come


@pytest.fixture
def drawn():
    """For tests that look at pictures, or at what is drawn: the folder's ``undrawn`` lets them be drawn."""


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    """Random weights for the bundle that `predict` takes by default, which give every class somewhere."""
    from monai_passion.networks import RFNet
    from monai_passion.networks.weights import save_weights
    from tests.helpers.tasks import BRATS_MRI

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_weights(RFNet(4, 4, width=8), path, {"modalities": list(BRATS_MRI)})
    return path


@pytest.fixture(scope="session")
def golden() -> Path:
    """Numbers from the released code; the tests that need them skip where the folder is not."""
    if not (GOLDEN / "README.md").is_file():
        pytest.skip(f"no golden numbers at {GOLDEN}; point MONAI_PASSION_GOLDEN to their folder")
    return GOLDEN


@pytest.fixture(scope="session")
def small_golden() -> Path:
    """Those of schedule, masks and evaluation; a part of them is in this repository."""
    return GOLDEN if (GOLDEN / "README.md").is_file() else Path(__file__).with_name("golden")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Real patients; the tests that need them skip where the folder is not."""
    folder = Path(os.environ.get("MONAI_PASSION_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not (folder / "README.md").is_file():
        pytest.skip(f"no real data at {folder}; point MONAI_PASSION_DATA to its folder")
    return folder


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium, driven by playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no Chromium here; on Debian: apt-get install chromium")
    flags = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=path, args=flags, timeout=120_000)
        yield launched
        launched.close()
