"""Answers as programs read them: JSON without numbers that are none, and separated values by RFC 4180."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

SCHEMA_VERSION = 2
"""Of the JSON that the command line and the server give."""


def json_text(value: Any, indent: int | None = None) -> str:
    """A value as JSON. NaN and infinities, which JSON does not have, are null."""
    try:
        return json.dumps(value, ensure_ascii=False, indent=indent, default=str, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), ensure_ascii=False, indent=indent, default=str)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def cells_of(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    """The cells of rows; lists and dictionaries as JSON."""
    return [
        [json_text(row[name]) if isinstance(row[name], list | dict) else row[name] for name in names] for row in rows
    ]


def separated(cells: Sequence[Any], separator: str) -> str:
    """One line of cells. Python's own writer leaves a carriage return bare, and readers end the row there."""
    return separator.join(_quoted(cell, separator) for cell in cells) or '""'


def _quoted(cell: Any, separator: str) -> str:
    text = "" if cell is None else str(cell)
    special = separator in text or any(c in text for c in '"\n\r')
    return '"' + text.replace('"', '""') + '"' if special else text


def is_formula(cell: Any) -> bool:
    """Whether a spreadsheet may take a cell for a formula."""
    return isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r"))
