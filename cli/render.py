"""Arrow tables to what a terminal, a program or a paper wants: a table, JSON, CSV, TSV, Parquet, Markdown or LaTeX."""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import pyarrow as pa
import typer

from atlas.errors import UsageError
from cli.common import say
from cli.interchange import SCHEMA_VERSION, cells_of, is_formula, json_text, separated
from cli.markup import latex, markdown
from cli.text import blocks, fitted, moves, narrowed, visible, width

WIDTH = 100
"""Columns of a table that goes elsewhere than to a terminal."""

SHORT = 32
"""Columns of a text that is shown whole."""

READ = ("table", "markdown", "latex")
"""The formats that a person reads: fewer columns, where an answer has a brief form."""

FORMATS = ("table", "json", "jsonl", "csv", "tsv", "parquet", "markdown", "latex")


@dataclass(frozen=True, slots=True)
class Output:
    """How rows are printed."""

    form: Annotated[
        str | None,
        typer.Option("--format", "-f", help=f"{', '.join(FORMATS)}. [default: table on a terminal, else jsonl]"),
    ] = None
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False
    as_csv: Annotated[bool, typer.Option("--csv", help="The same as --format csv.")] = False
    spreadsheet: Annotated[
        bool | None,
        typer.Option(
            "--spreadsheet/--no-spreadsheet",
            help="csv and tsv: a ' before text that a spreadsheet would run (= + - @). [default: into a file]",
        ),
    ] = None

    def chosen(self) -> str:
        """The one format asked for.

        Raises:
            UsageError: an unknown one, or several.
        """
        formats = [f for f in (self.form, "json" if self.as_json else None, "csv" if self.as_csv else None) if f]
        if len(set(formats)) > 1:
            raise UsageError(f"choose one output format, not {' and '.join(formats)}")
        if formats and formats[0] not in FORMATS:
            raise UsageError(f"no format called '{formats[0]}'; there are: {', '.join(FORMATS)}")
        global _spreadsheet
        _spreadsheet = self.spreadsheet
        return formats[0] if formats else ("table" if sys.stdout.isatty() or _as_terminal else "jsonl")


_as_terminal = False
_spreadsheet: bool | None = None


def as_terminal() -> None:
    """Print tables by default although stdout is not a terminal: the demo is read by a person wherever it goes."""
    global _as_terminal
    _as_terminal = True


def show(table: pa.Table, form: str, *, more: Mapping[str, Any] | None = None) -> None:
    """Print rows on stdout. more: facts about the whole answer, kept by the JSON form."""
    rows = table.to_pylist()
    if form == "table":
        _table(table.column_names, rows)
    elif form in READ:
        _, numeric, cells = _readable(table.column_names, rows)
        print((markdown if form == "markdown" else latex)(cells, numeric))
    elif form == "json":
        write_json({"schema_version": SCHEMA_VERSION, **(more or {}), "rows": rows}, indent=2)
    elif form == "jsonl":
        for row in rows:
            write_json(row)
    elif form == "parquet":
        _parquet(table)
    else:
        _separated(table.column_names, rows, "," if form == "csv" else "\t")


def write_json(value: Any, indent: int | None = None) -> None:
    """Print a value as JSON, with escapes for what a terminal or the encoding of stdout cannot have."""
    text = json_text(value, indent)
    if not text.isascii():
        unicode = (sys.stdout.encoding or "utf-8").lower().startswith("utf")
        text = "".join(c if c.isascii() or (unicode and not moves(c)) else json.dumps(c)[1:-1] for c in text)
    print(text)


def _separated(names: Sequence[str], rows: Sequence[Mapping[str, Any]], separator: str) -> None:
    """Rows with a separator: escaped on a terminal, and in a file so that no spreadsheet takes text for a formula."""
    guarded = _into_a_file() if _spreadsheet is None else _spreadsheet
    cells = cells_of(names, rows)
    formulas = sum(is_formula(cell) for row in cells for cell in row)
    if guarded and formulas:
        cells = [[f"'{cell}" if is_formula(cell) else cell for cell in row] for row in cells]
        say(f"{formulas} texts begin as a formula would; they have a ' before them (--no-spreadsheet leaves it out)")
    if sys.stdout.isatty():
        cells = [[visible(cell) if isinstance(cell, str) else cell for cell in row] for row in cells]
    for row in (names, *cells):
        print(separated(row, separator))


def _into_a_file() -> bool:
    try:
        return stat.S_ISREG(os.fstat(sys.stdout.fileno()).st_mode)
    except (OSError, ValueError):  # stdout is not a file of the system's, or closed
        return False


def _parquet(table: pa.Table) -> None:
    import pyarrow.parquet as pq

    if sys.stdout.isatty():
        raise UsageError("--format parquet writes bytes; send them to a file, for example > neurons.parquet")
    pq.write_table(table, sys.stdout.buffer)


def _table(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """A table that fits the terminal, or WIDTH columns elsewhere: long texts are cut, and what is still too wide stands
    in several blocks."""
    if not rows:
        print("(no rows)")
        return
    shown, numeric, cells = _readable(names, rows)
    widths = [max(width(row[i]) for row in cells) for i in range(len(shown))]
    room = shutil.get_terminal_size((WIDTH, 24)).columns if sys.stdout.isatty() else WIDTH
    lists = [any(isinstance(row[name], list) for row in rows) for name in shown]
    # A value with its interval is a text too, and a short one: it is never cut.
    can_be_cut = [of_lists or (not n and w > SHORT) for of_lists, n, w in zip(lists, numeric, widths, strict=True)]
    widths = narrowed(widths, can_be_cut, room)
    keys = next((i for i, number in enumerate(numeric) if number), len(shown)) or min(2, len(shown))
    while keys and sum(widths[:keys]) > room // 2:
        keys -= 1
    for number, columns in enumerate(blocks(widths, keys, room)):
        if number:
            print()
        for line in (cells[0], ["-" * w for w in widths], *cells[1:]):
            print("  ".join(_padded(line[i], widths[i], numeric[i]) for i in columns).rstrip())


def _readable(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[bool], list[list[str]]]:
    """The columns that are shown, which of them are numbers, and the cells, names first."""
    shown = [n for n in names if not (n == "component" and all(r[n] == "language" for r in rows))]
    numeric = [all(isinstance(r[n], int | float | None) for r in rows) for n in shown]
    return shown, numeric, [[visible(n) for n in shown], *([_cell(row[name]) for name in shown] for row in rows)]


def _padded(text: str, columns: int, right: bool) -> str:
    text = fitted(text, columns)
    space = " " * (columns - width(text))
    return space + text if right else text + space


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return " ".join(_cell(v).strip() or repr(v) for v in value)
    return visible(str(value))
