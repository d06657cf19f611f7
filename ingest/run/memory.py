"""How much memory this process uses."""

from __future__ import annotations

import ctypes
import gc
import resource
import sys
from pathlib import Path

UNIT = 1 if sys.platform == "darwin" else 1024
"""Of `ru_maxrss`, in bytes."""

CLEAR, RESET_PEAK = Path("/proc/self/clear_refs"), "5"
"""Where Linux is told to measure a process's largest memory anew; see proc(5)."""


def peak() -> int:
    """The bytes in use at most, since the process began or `forget_peak`.

    On Linux not `ru_maxrss`, which begins with what the process had in use that started this one.
    """
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT


def forget_peak(*, trim: bool = True) -> int:
    """Measure the largest anew, and say how many bytes are in use; outside Linux the largest is not forgotten.

    trim: give freed memory back first. What then allocates some takes longer than in a program that keeps it.
    """
    if trim:
        gc.collect()
    if CLEAR.exists():
        if trim and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
            libc.malloc_trim(0)
        CLEAR.write_text(RESET_PEAK)
    return _status("VmRSS") or peak()


def _status(field: str) -> int:
    """A field of /proc/self/status in bytes; 0 where there is none."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), 0)
