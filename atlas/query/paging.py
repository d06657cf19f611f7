"""Pages of an answer: a total order of its rows, and a cursor that continues after the last row of a page.

A cursor holds a digest of its question and the last row's place in the order, so that it stays valid whatever else is
stored, and is refused for another question or where newer maps now answer it.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from atlas.errors import UsageError, unknown
from atlas.query.filters import NUMBERS
from atlas.query.map_spec import COORDINATES

SHOWN = tuple(name for name, about in COORDINATES.items() if about.shown)
"""Names of maps, in the order of their columns; one is shown where the maps of an answer differ in it."""

SORTABLE = (*NUMBERS, *SHOWN)
LAST = ("component", "layer", "neuron")

Order = tuple[tuple[str, bool], ...]
"""Columns, and whether the largest comes first."""


def order(sort: Sequence[str], differ: Sequence[str]) -> Order:
    """The order of an answer's rows: as requested (a minus sign: the largest first; by rank by default), then by the
    names in which its maps differ and by neuron, so that no two rows have the same place.

    Raises:
        UsageError: no such field.
    """
    keys: dict[str, bool] = {}
    for text in sort or ("rank",):
        name = text.removeprefix("-")
        if name not in SORTABLE:
            raise unknown("field to sort by", name, SORTABLE, "atlas query --help")
        if name in NUMBERS or name in differ:  # by a name that all rows share, nothing is sorted
            keys.setdefault(name, text.startswith("-"))
    for name in (*differ, *LAST):
        keys.setdefault(name, False)
    return tuple(keys.items())


def column(name: str) -> str:
    """A column to order by; z of a map without spread is NULL, and counts as the smallest."""
    return "coalesce(z, '-inf'::DOUBLE)" if name == "z" else name


def order_sql(by: Order) -> str:
    """SQL for the order: the terms of ORDER BY."""
    return ", ".join(f"{column(name)}{' DESC' if largest else ''}" for name, largest in by)


def beyond(by: Order, last: Sequence[Any], bind: Callable[[Any], str]) -> str:
    """SQL for the rows behind a place in the order."""
    alternatives: list[str] = []
    same: list[str] = []
    for (name, largest), value in zip(by, last, strict=True):
        bound = f"{bind('-inf' if value is None else value)}{_CASTS.get(name, '')}"
        alternatives.append(" AND ".join([*same, f"{column(name)} {'<' if largest else '>'} {bound}"]))
        same.append(f"{column(name)} = {bound}")
    return "(" + " OR ".join(f"({part})" for part in alternatives) + ")"


_CASTS = {"score": "::FLOAT", "z": "::DOUBLE", "percentile": "::DOUBLE"}


def digest(question: Any) -> str:
    """16 hex digits of a question in plain objects."""
    return hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()[:16]


def cursor(by: Order, row: Mapping[str, Any], question: str) -> str:
    """The cursor that continues after a row."""
    payload = json.dumps([question, *(row[name] for name, _ in by)], separators=(",", ":"))
    return base64.urlsafe_b64encode(payload.encode()).decode().rstrip("=")


def read(text: str, by: Order, question: str) -> list[Any]:
    """The place in the order that a cursor stands for.

    Raises:
        UsageError: it is damaged, or belongs to another question.
    """
    try:
        payload = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        stored_question, *last = payload
    except (ValueError, TypeError, RecursionError):
        raise UsageError("[[after]] takes the cursor at the end of the previous page; this is not a cursor") from None
    if stored_question != question or len(last) != len(by):
        raise UsageError(
            "this cursor belongs to another question, or newer maps now answer it; ask again without [[after]] "
            "(the filter, [[select]] and [[sort]] must be the same on every page)"
        )
    for (name, _), value in zip(by, last, strict=True):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        fits_number = number or (name == "z" and value is None) if name in (*NUMBERS, "layer", "neuron") else False
        if not fits_number and not (name not in NUMBERS and isinstance(value, str)):
            raise UsageError("[[after]] takes the cursor at the end of the previous page; this one was changed")
    return list(last)
