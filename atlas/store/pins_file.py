"""The pins of an atlas, its file `pins.json`: a model, a dataset and runs that questions are about by default."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from atlas.errors import IntegrityError

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
            raise ValueError("a name is not text")
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


def current() -> Pins:
    """The pins that the questions of this block follow."""
    return _current.get()
