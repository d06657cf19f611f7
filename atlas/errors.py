"""Errors by what the reader can do about them; each carries its exit code.

AtlasError                  1  something failed; the message says what to type next
├── UsageError              2  the request names something that does not exist
├── StoreUnavailable        3  the database is locked, missing, read-only, or of another version
├── IntegrityError          4  stored data does not agree with itself
└── Unsupported             5  this model or this machine cannot do it
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable

_FIELD = re.compile(r"\[\[([a-z_]+)(?:=([^\]]*))?\]\]")


def spelled(message: str, spell: Callable[[str, str | None], str]) -> str:
    """A message with its fields, `[[top]]` or `[[token=bark]]`, replaced by what `spell` returns for their name and
    value."""
    return _FIELD.sub(lambda field: spell(field[1], field[2]), message)


def keyword(name: str, value: str | None) -> str:
    """A field as Python spells it: `top`, or `token='bark'`."""
    return name if value is None else f"{name}={value!r}"


class AtlasError(Exception):
    """Base of every error this project raises on purpose; printed without a traceback.

    A message names fields as `[[top]]` or `[[token=bark]]`; each surface spells them its own way, Python as keywords.

    >>> str(AtlasError("[[top]] must be at least 1"))
    'top must be at least 1'
    """

    exit_code = 1

    def __init__(self, message: object = "") -> None:
        super().__init__(message)
        self.message = str(message)

    def __str__(self) -> str:
        return spelled(self.message, keyword)


class UsageError(AtlasError):
    """The request names something that does not exist, or is not valid."""

    exit_code = 2


class StoreUnavailable(AtlasError):
    """The database is locked, missing, read-only, or of another version."""

    exit_code = 3


class IntegrityError(AtlasError):
    """Stored data is damaged or inconsistent."""

    exit_code = 4


class Unsupported(AtlasError):
    """This model or this machine cannot do it."""

    exit_code = 5


class AtlasWarning(UserWarning):
    """Information that a reader of the result needs; the command line prints it as one line."""


def unknown(kind: str, name: str, known: Iterable[str], see: str) -> UsageError:
    """The error for a name that does not exist: the name, the nearest existing one, and the command that lists all.

    >>> str(unknown("method", "contribtion", ["contribution", "random"], "atlas methods"))
    "no method called 'contribtion'; did you mean 'contribution'? (`atlas methods` lists all)"
    """
    names = sorted(set(known))
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        hint = f"did you mean '{near[0]}'?"
    elif names:
        shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        hint = f"there are: {shown}"
    else:
        hint = "there are none yet"
    return UsageError(f"no {kind} called '{name}'; {hint} (`{see}` lists all)")
