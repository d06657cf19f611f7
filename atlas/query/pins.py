"""What the questions of an atlas are about where nothing is said: a model, a dataset, runs. Kept in `pins.json`.

An atlas grows, and the newest model or run would answer tomorrow what another does today; pinned, they stay the same.
A pin holds for what a question leaves open: one of another model or dataset is not held to the pinned runs, and one of
a run is held to no pin.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atlas.errors import IntegrityError, UsageError, unknown

if TYPE_CHECKING:
    from atlas.query.statements import MapSpec

NAME = "pins.json"


@dataclass(frozen=True, slots=True)
class Pins:
    """runs: whole ids of finished runs."""

    model: str | None = None
    dataset: str | None = None
    runs: tuple[str, ...] = ()


NOTHING = Pins()
_current: ContextVar[Pins] = ContextVar("pins", default=NOTHING)


def read(path: Path) -> Pins:
    """The pins of an atlas.

    Raises:
        IntegrityError: their file is damaged.
    """
    file = path / NAME
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
        found = Pins(said["model"], said["dataset"], tuple(said["runs"]))
        texts = [t for t in (found.model, found.dataset, *found.runs) if t is not None]
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("a name is no text")
    except FileNotFoundError:
        return NOTHING
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise IntegrityError(f"{file} is damaged ({error}); `atlas use --clear` removes it") from error
    return found


@contextmanager
def following(path: Path) -> Iterator[None]:
    """Questions in the block follow the atlas's pins."""
    token = _current.set(read(path))
    try:
        yield
    finally:
        _current.reset(token)


def pin(path: Path, *, model: str | None = None, dataset: str | None = None, runs: Sequence[str] = ()) -> Pins:
    """Pin what is given, beside what is pinned already. runs: beginnings of ids; they replace those pinned before.

    Raises:
        UsageError: the atlas has no such model, dataset or finished run.
    """
    from atlas.query.run_record import run_named
    from atlas.store.atomic import write_atomically
    from atlas.store.database import open_readonly
    from atlas.store.scratch import folder_lock

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


def held(which: MapSpec) -> Pins:
    """The pins that hold for a question: see above."""
    pins = _current.get()
    if pins == NOTHING or _said(which, "run"):
        return NOTHING
    model = None if _said(which, "model") or _said(which, "fingerprint") else pins.model
    dataset = None if _said(which, "dataset") else pins.dataset
    others = any(
        None not in (said, pinned) and said != pinned
        for said, pinned in ((which.model, pins.model), (which.dataset, pins.dataset))
    )
    return Pins(model, dataset, () if others else pins.runs)


def _said(which: MapSpec, name: str) -> bool:
    return getattr(which, name) is not None or name in (which.mentioned or "").split()


def notes(which: MapSpec) -> tuple[str, ...]:
    """What the pins filled in, to be said with the answer."""
    found = held(which)
    said = [f"{n}={v}" for n, v in (("model", found.model), ("dataset", found.dataset)) if v is not None]
    said += [f"run={','.join(run[:8] for run in found.runs)}"] if found.runs else []
    return tuple(f"{text} (pinned; `atlas use`)" for text in said)


def as_said(pins: Pins) -> dict[str, Any]:
    """The pins as one row."""
    return asdict(pins) | {"runs": [run[:8] for run in pins.runs]}
