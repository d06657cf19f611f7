"""Errors by what the reader can do about them; each carries its exit code.

AtlasError                  1  something failed; the message says what to type next
├── UsageError              2  the request names something that does not exist
├── StoreUnavailable        3  the database is locked, missing, read-only, or of another version
├── IntegrityError          4  stored data does not agree with itself
└── Unsupported             5  this model or this machine cannot do it
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AtlasError(Exception):
    """Root of every error this project raises on purpose; printed without a traceback."""

    exit_code = 1


class UsageError(AtlasError):
    exit_code = 2


class StoreUnavailable(AtlasError):
    exit_code = 3


class IntegrityError(AtlasError):
    exit_code = 4


class Unsupported(AtlasError):
    exit_code = 5


class AtlasWarning(UserWarning):
    """Something that a reader of the result should know; the command line prints it as one line."""


def unknown(kind: str, name: str, known: Iterable[str], see: str) -> UsageError:
    """The error for a name that does not exist: what was asked, the nearest name, where the list is.

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
