"""The pins of an atlas, in its file `pins.json`: a model, a dataset and runs that questions use by default."""

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
    """The pins of an atlas. runs: full ids of finished runs."""

    model: str | None = None
    dataset: str | None = None
    runs: tuple[str, ...] = ()


NO_PINS = Pins()
_current: ContextVar[Pins] = ContextVar("pins", default=NO_PINS)


def read(path: Path) -> Pins:
    """The pins of an atlas.

    Raises:
        IntegrityError: their file is damaged.
    """
    file = path / NAME
    try:
        payload = json.loads(file.read_text(encoding="utf-8"))
        pins = Pins(payload["model"], payload["dataset"], tuple(payload["runs"]))
        texts = [t for t in (pins.model, pins.dataset, *pins.runs) if t is not None]
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("a name is not text")
    except FileNotFoundError:
        return NO_PINS
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise IntegrityError(f"{file} is damaged ({error}); `atlas use --clear` removes it") from error
    return pins


@contextmanager
def apply_pins(path: Path) -> Iterator[None]:
    """Apply the atlas's pins to the questions of the block."""
    token = _current.set(read(path))
    try:
        yield
    finally:
        _current.reset(token)


def current() -> Pins:
    """The pins that apply to questions here."""
    return _current.get()
