"""Small, escaped HTML of tables, for notebooks: no scripts and no styles."""

from __future__ import annotations

from html import escape
from typing import Any

import pyarrow as pa

SHOWN_ROWS = 20
"""Rows of a table that a notebook shows."""


def table_html(table: pa.Table, heading: str = "") -> str:
    """The first rows, and the number of rows if there are more. heading: its caption."""
    names = table.column_names
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    rows = "".join(
        f"<tr>{''.join(f'<td>{escape(_cell(row[name]))}</td>' for name in names)}</tr>"
        for row in table.slice(0, SHOWN_ROWS).to_pylist()
    )
    caption = f"<caption>{escape(heading)}</caption>" if heading else ""
    more = f"<div>{SHOWN_ROWS} of {table.num_rows} rows</div>" if table.num_rows > SHOWN_ROWS else ""
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{more}"


def line_html(text: str) -> str:
    """A line of text."""
    return f"<div>{escape(text)}</div>"


def image_html(data: str, alternative: str, *, width: int | None = None) -> str:
    """A picture inside the page. data: a `data:` address. alternative: words for those who cannot see it."""
    size = "" if width is None else f' width="{width}"'
    return f'<img src="{data}" alt="{escape(alternative, quote=True)}"{size}>'


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return " ".join(str(part) for part in value)
    return str(value)
