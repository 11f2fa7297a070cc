"""Memory: the peak of this process, keeping freed memory, and the memory that is left."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

__all__ = ["free_memory", "keep_freed_memory", "peak_memory_mb"]

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Parameters of mallopt(3)."""


def peak_memory_mb() -> float:
    """Peak memory of this process so far, in MB (10^6 bytes); 0 if the system does not tell it (Windows)."""
    status = Path("/proc/self/status")
    if status.is_file():  # what getrusage says of a Linux process counts its parent in, from before it was started
        kilobytes = next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return round(int(kilobytes) * 1024 / 1e6, 1)
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak * (1 if sys.platform == "darwin" else 1024) / 1e6, 1)


def keep_freed_memory() -> bool:
    """Reuse freed memory instead of returning it to the system, which fills it with zeros before reuse.

    By default the maps of a 3-D network are returned and requested at every operation, which can take half the time of
    a training step on a CPU. The process then keeps its peak until it ends.

    Returns:
        Whether it worked; it does with glibc only.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return all(mallopt(parameter, value) == 1 for parameter, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1)))


def free_memory() -> int | None:
    """Bytes that are still free, on the machine or in the process's control group; None if not known."""
    found = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found += [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable")]
        group = Path("/sys/fs/cgroup")
        limit, used = ((group / name).read_text().strip() for name in ("memory.max", "memory.current"))
        files = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())["inactive_file"]
        found += [max(int(limit) - int(used) + int(files), 0)] if limit.isdecimal() else []
    except (OSError, KeyError):  # another system, or no control groups
        pass
    return min(found, default=None)
