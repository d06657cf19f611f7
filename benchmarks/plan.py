"""What `atlas ingest --dry-run` predicts over what the same job then takes: memory, and the seconds of every phase.

On smollm2-135m and photo-vlm, where `atlas models get` has fetched them, and on the embedded model. Methods that
restart the model take 4 steps of 20, which prediction and run have alike. Phases below 0.2 s are left out: they are
noise. Name models to have only these.

Both sides count the seconds of their own process, so that they agree on a machine that others use too, where a clock on
the wall may run twice as fast during one of them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _real import TOY, toy_and_fetched
from _timing import report

from ingest.job import Execution, Job, make_job
from ingest.run.plan import plan

TARGET, LEAST = "0.67 to 1.5", 0.2
STEPS = {"steps": 4}
METHODS = {
    "contribution": {},
    "gradient_x_activation": {},
    "integrated_gradients": STEPS,
    "knowledge_neurons": STEPS,
    "logprob_increase": {},
}
OF_PICTURES: dict[str, dict[str, Any]] = {"contribution": {}, "gradient_x_activation": {}}
UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0, "B": 1.0, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}
UNCOUNTED = ("memory", "time", "disk")
"""Rows of a plan with an amount that is no phase."""

RUN = """
import json, sys, tempfile
from pathlib import Path
from atlas.store import create
from ingest.job import Execution, make_job
from ingest.run.ingest import ingest
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "measured.atlas"
    create.init(path)
    print(json.dumps(ingest(path, make_job(json.loads(sys.argv[1])), Execution()).outcome))
"""


CLOCK = "import time\ntime.perf_counter = time.process_time\n"


def count_own_seconds(folder: Path) -> None:
    """Make this process, and all that it starts, take the process's own time for what a clock on the wall says."""
    (folder / "sitecustomize.py").write_text(CLOCK, encoding="utf-8")  # Python runs it when it starts
    os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    time.perf_counter = time.process_time


def amount(text: str) -> float | None:
    """Seconds or bytes of "1.2 min" or "3 GiB"; None of anything else."""
    number, _, unit = text.partition(" ")
    return float(number) * UNITS[unit] if unit in UNITS else None


def measured(content: dict[str, Any]) -> dict[str, Any]:
    """The outcome of the job in a process of its own, whose memory is its own too."""
    done = subprocess.run([sys.executable, "-c", RUN, json.dumps(content)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    outcome: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return outcome


def compare(name: str, content: dict[str, Any]) -> None:
    job: Job = make_job(content)
    told = {row["what"]: amount(row["how_much"]) for row in plan(job, Execution())}
    outcome = measured(content)
    bytes_told, peak = told["memory"], outcome["peak_memory_bytes"]
    assert bytes_told is not None
    detail = f"{bytes_told / 2**30:.3g} GiB predicted, {peak / 2**30:.3g} measured"
    report(f"{name}: memory, predicted / measured", bytes_told / peak, TARGET, detail)
    for phase, seconds in sorted(outcome["phases"].items(), key=lambda pair: -pair[1]):
        predicted = told.get(phase) or 0.0
        if max(seconds, predicted) >= LEAST:
            detail = f"{predicted:.3g} s predicted, {seconds:.3g} measured"
            report(f"{name}: {phase}, predicted / measured", predicted / seconds, TARGET, detail)
    for phase, foretold in told.items():
        if phase not in (*outcome["phases"], *UNCOUNTED) and foretold is not None and foretold >= LEAST:
            print(f"{name}: {phase}: {foretold:.3g} s predicted, none measured")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        count_own_seconds(Path(folder))
        for model in toy_and_fetched(sys.argv[1:]):
            if model is TOY:
                compare(model.name, model.job(METHODS) | {"per_concept": 16, "concepts": list(model.concepts)})
            elif model.name == "photo-vlm":  # its layers are those of smollm2-135m: what differs is pictures
                compare(model.name, model.job(OF_PICTURES) | {"per_concept": 8, "concepts": list(model.concepts)})
            else:
                compare(model.name, model.job(METHODS) | {"per_concept": 1, "concepts": list(model.concepts[:2])})


if __name__ == "__main__":
    main()
