"""Pin what the questions of an atlas are about where they leave it open: a model, a dataset, runs.

An atlas grows, and a newer model or run may answer the same question tomorrow; with pins, the answer stays the same.
Pins apply to what a question leaves open: a question about another model or dataset ignores the pinned runs, and one
about a run ignores all pins (`atlas.query.map_spec.active_pins`).
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
    """Pin a model, a dataset or runs, and keep other pins. runs: prefixes of ids; they replace the pinned runs.

    Raises:
        UsageError: the atlas has no such model, dataset or finished run.
    """

    with open_readonly(path, pinned=False) as connection:
        for kind, name in (("model", model), ("dataset", dataset)):
            stored_names = {str(r[0]) for r in connection.execute(f"SELECT name FROM {kind}s").fetchall()}
            if name is not None and name not in stored_names:
                raise unknown(kind, name, stored_names, f"atlas {kind}s")
        ids = tuple(dict.fromkeys(run_named(connection, run) for run in runs))
        for run in ids:
            [(status,)] = connection.execute("SELECT status FROM runs WHERE run_id = $run", {"run": run}).fetchall()
            if status != "done":
                raise UsageError(f"run {run[:8]} is {status}; pin a run that is done (`atlas runs`)")
    with folder_lock(path):
        old = read(path)
        new = Pins(model or old.model, dataset or old.dataset, ids or old.runs)
        text = json.dumps(asdict(new), indent=1, ensure_ascii=False) + "\n"
        write_atomically(path / NAME, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return new


def clear(path: Path) -> None:
    """Remove all pins."""
    (path / NAME).unlink(missing_ok=True)


def as_row(pins: Pins) -> dict[str, Any]:
    """The pins as one row."""
    return asdict(pins) | {"runs": [run[:8] for run in pins.runs]}
