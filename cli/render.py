"""Arrow tables to what a terminal or a program wants: a table, JSON, JSON lines, CSV, TSV or Parquet."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import pyarrow as pa
import typer

from atlas.errors import UsageError

SCHEMA_VERSION = 1
FORMATS = ("table", "json", "jsonl", "csv", "tsv", "parquet")


@dataclass(frozen=True, slots=True)
class Output:
    """How rows are printed."""

    form: Annotated[
        str | None,
        typer.Option("--format", "-f", help=f"{', '.join(FORMATS)}. [default: table on a terminal, else jsonl]"),
    ] = None
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False
    as_csv: Annotated[bool, typer.Option("--csv", help="The same as --format csv.")] = False

    def chosen(self) -> str:
        """The one format asked for.

        Raises:
            UsageError: an unknown one, or several.
        """
        asked = [f for f in (self.form, "json" if self.as_json else None, "csv" if self.as_csv else None) if f]
        if len(set(asked)) > 1:
            raise UsageError(f"choose one output format, not {' and '.join(asked)}")
        if asked and asked[0] not in FORMATS:
            raise UsageError(f"no format called '{asked[0]}'; there are: {', '.join(FORMATS)}")
        return asked[0] if asked else ("table" if sys.stdout.isatty() or _as_terminal else "jsonl")


_as_terminal = False


def as_terminal() -> None:
    """Print tables by default although stdout is no terminal: the demo is read by a person wherever it goes."""
    global _as_terminal
    _as_terminal = True


def show(table: pa.Table, form: str, *, more: Mapping[str, Any] | None = None) -> None:
    """Print rows on stdout. more: facts about the whole answer, kept by the JSON form."""
    rows = table.to_pylist()
    if form == "table":
        _table(table.column_names, rows)
    elif form == "json":
        print(_json({"schema_version": SCHEMA_VERSION, **(more or {}), "rows": rows}, indent=2))
    elif form == "jsonl":
        for row in rows:
            print(_json(row))
    elif form == "parquet":
        _parquet(table)
    else:
        _separated(table.column_names, rows, "," if form == "csv" else "\t")


def _json(value: Any, indent: int | None = None) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, indent=indent, default=str, allow_nan=False)
    except ValueError:  # JSON has no number that is none
        return json.dumps(_finite(value), ensure_ascii=False, indent=indent, default=str)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _separated(names: Sequence[str], rows: Sequence[Mapping[str, Any]], separator: str) -> None:
    writer = csv.writer(sys.stdout, delimiter=separator, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([[_flat(row[name]) for name in names] for row in rows])


def _flat(value: Any) -> Any:
    return _json(value) if isinstance(value, list | dict) else value


def _parquet(table: pa.Table) -> None:
    import pyarrow.parquet as pq

    if sys.stdout.isatty():
        raise UsageError("--format parquet writes bytes; send them to a file, for example > neurons.parquet")
    pq.write_table(table, sys.stdout.buffer)


def _table(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    if not rows:
        print("(no rows)")
        return
    shown = [n for n in names if not (n == "component" and all(r[n] == "language" for r in rows))]
    numeric = {n for n in shown if all(isinstance(r[n], int | float | None) for r in rows)}
    cells = [[_cell(row[name]) for name in shown] for row in rows]
    widths = [max(len(name), *(len(row[i]) for row in cells)) for i, name in enumerate(shown)]
    for line in (list(shown), ["-" * w for w in widths], *cells):
        padded = [
            text.rjust(width) if name in numeric else text.ljust(width)
            for text, width, name in zip(line, widths, shown, strict=True)
        ]
        print("  ".join(padded).rstrip())


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return " ".join(_cell(v).strip() or repr(v) for v in value)
    text = str(value)
    return text if text.isprintable() else repr(text)[1:-1]
