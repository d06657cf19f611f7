"""Pin what the questions of an atlas are about where they leave it open: a model, a dataset, runs.

An atlas grows, and the newest model or run would answer tomorrow what another does today; pinned, they stay the same.
A pin holds for what a question leaves open: one of another model or dataset is not held to the pinned runs, and one of
a run is held to no pin (`atlas.query.map_spec.held`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from atlas.errors import UsageError, unknown
from atlas.query.run_record import run_named
from atlas.store.atomic import write_atomically
from atlas.store.database import open_readonly
from atlas.store.pins_file import NAME, Pins, read
from atlas.store.scratch import folder_lock


def pin(path: Path, *, model: str | None = None, dataset: str | None = None, runs: Sequence[str] = ()) -> Pins:
    """Pin what is given, beside what is pinned already. runs: beginnings of ids; they replace those pinned before.

    Raises:
        UsageError: the atlas has no such model, dataset or finished run.
    """

    with open_readonly(path, pinned=False) as connection:
        for kind, name in (("model", model), ("dataset", dataset)):
            there = {str(r[0]) for r in connection.execute(f"SELECT name FROM {kind}s").fetchall()}
            if name is not None and name not in there:
                raise unknown(kind, name, there, f"atlas {kind}s")
        ids = tuple(dict.fromkeys(run_named(connection, run) for run in runs))
        for run in ids:
            [(status,)] = connection.execute("SELECT status FROM runs WHERE run_id = $run", {"run": run}).fetchall()
            if status != "done":
                raise UsageError(f"run {run[:8]} is {status}; pin a run that is done (`atlas runs`)")
    with folder_lock(path):
        had = read(path)
        new = Pins(model or had.model, dataset or had.dataset, ids or had.runs)
        text = json.dumps(asdict(new), indent=1, ensure_ascii=False) + "\n"
        write_atomically(path / NAME, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return new


def clear(path: Path) -> None:
    """Pin nothing."""
    (path / NAME).unlink(missing_ok=True)


def as_said(pins: Pins) -> dict[str, Any]:
    """The pins as one row."""
    return asdict(pins) | {"runs": [run[:8] for run in pins.runs]}
