"""What tracing costs over a bare forward pass of the same batch, for every model family, on its tiny random model.

These models are so small that Python around the pass is most of it: what is seen here is the fixed cost of the hooks,
an upper bound. `throughput.py` has shapes where arithmetic counts.
"""

from __future__ import annotations

import time
import warnings

import _tests  # noqa: F401
import families
import torch
from _timing import report
from family_checks import Subject
from transformers.utils import logging

from atlas.live.encode import Batch
from atlas.live.hooks import tracing
from atlas.live.model import LiveModel

BATCH, REPEATS = 8, 40


def ratio(live: LiveModel, batch: Batch) -> tuple[float, float]:
    """Traced / bare, and the bare pass's seconds: the least of interleaved repeats, as others use the machine too."""
    least = {"bare": float("inf"), "traced": float("inf")}
    for _ in range(REPEATS):
        for name in least:
            started = time.perf_counter()
            with torch.no_grad():
                if name == "bare":
                    live.forward(batch)
                else:
                    with tracing(live.layout):
                        live.forward(batch)
            least[name] = min(least[name], time.perf_counter() - started)
    return least["traced"] / least["bare"], least["bare"]


def main() -> None:
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    found = {}
    for name in families.FAMILIES:
        of = Subject(name)
        batch = of.live.batch(of.prompts() * (BATCH // 2))
        found[name], seconds = ratio(of.live, batch)
        report(f"traced / bare, {name}", found[name], "near 1", f"{1000 * seconds:.1f} ms bare, batch {BATCH}")
    worst = max(found, key=lambda name: found[name])
    report("the most of them", found[worst], "<= 1.15", worst)


if __name__ == "__main__":
    main()
