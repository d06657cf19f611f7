"""Medians of interleaved repeats, so that whatever else the machine does falls on both sides alike."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def interleaved(
    sides: Mapping[str, Callable[[], object]], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Median seconds of each side, after one warm-up. clock: `time.process_time` counts this process's alone."""
    for side in sides.values():
        side()
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            started = clock()
            side()
            taken[name].append(clock() - started)
    return {name: statistics.median(values) for name, values in taken.items()}


def report(claim: str, value: float, target: str, detail: str) -> None:
    print(f"{claim}: {value:.3g} (target {target}); {detail}")
