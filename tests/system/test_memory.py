"""What the process knows of its own memory, and keeps of it."""

import subprocess
import sys

import pytest

from monai_passion.system.memory import keep_freed_memory


def test_the_peak_counts_what_was_freed_and_not_what_the_parent_held():
    code = """
import subprocess, sys
import numpy as np
from monai_passion.system.memory import peak_memory_mb
peaks = [peak_memory_mb()]
big = np.ones(int(peaks[0] + 200) * 125_000)
peaks.append(peak_memory_mb())
del big
peaks.append(peak_memory_mb())
child = "from monai_passion.system.memory import peak_memory_mb; print(peak_memory_mb())"
print(*peaks, subprocess.check_output([sys.executable, "-c", child], text=True))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, held, freed, of_child = map(float, run.stdout.split())
    assert held >= before + 200
    assert freed >= before + 200
    assert of_child < before + 150


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
