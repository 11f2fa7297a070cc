"""What the process knows of its own memory, and keeps of it."""

import subprocess
import sys

import numpy as np
import pytest

from monai_passion.system.memory import keep_freed_memory, peak_memory_mb


def test_the_peak_counts_what_was_freed_and_not_what_the_parent_held():
    before = peak_memory_mb()
    big = np.ones(int(before + 200) * 125_000)
    assert peak_memory_mb() >= before + 200
    del big
    assert peak_memory_mb() >= before + 200
    code = "from monai_passion.system.memory import peak_memory_mb; print(peak_memory_mb())"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(child.stdout) < before + 150


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc can keep freed memory")
def test_freed_memory_stays():
    code = """
import numpy as np
from pathlib import Path
from monai_passion.system.memory import keep_freed_memory
def held(): return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
assert keep_freed_memory()
big = np.ones(25_000_000)
full = held()
del big
print(full - held())
"""
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(child.stdout) < 50_000_000


def test_elsewhere_nothing_is_arranged(monkeypatch):
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    assert not keep_freed_memory()
