"""One statement of the owner's own SQL, on a connection that can read the database and nothing else.

Closed by settings that are read back (no file, no network, no extension, no attaching, no setting, no Python object),
and beside these one SELECT at a time, a number of rows, a time; in a process of its own, which ends when these do.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa

from atlas.errors import AtlasError, UsageError
from atlas.store.database import open_readonly
from atlas.store.limited_process import GIB, NeedsMemory, Result, TookTooLong, run_confined

ROWS, SECONDS = 1000, 60.0
"""How many rows and how long, unless the owner says otherwise."""

MEMORY = 5 * GIB
"""What the process may allocate: DuckDB's own limit of a reader, and what it does not count."""

LARGEST = 512 << 20
"""Bytes of an answer."""

MOST_ROWS, LONGEST = 10**9, 86_400.0

_PLAIN = re.compile(r"(U?(TINY|SMALL|BIG)?INT|U?INTEGER|FLOAT|DOUBLE|DECIMAL\(\d+,\d+\)|BOOLEAN|VARCHAR)(\[\d*\])*")
"""Types that every form of output can show; others come as DuckDB's own text."""


@dataclass(frozen=True, slots=True)
class SelectedRows:
    """rows: at most as many as asked for. more: there are others."""

    rows: pa.Table
    more: bool


def run_sql(
    path: Path | str, text: str, *, limit: int = ROWS, timeout: float = SECONDS, bundle: bool = False
) -> SelectedRows:
    """Answer one SELECT (or DESCRIBE, SUMMARIZE, SHOW) over the tables of `atlas.store.schema`.

    It runs in a process of its own.

    path: the atlas, or with `bundle` what `atlas.share.attach.attached` takes.

    Raises:
        UsageError: not one reading statement, or DuckDB refuses it.
        AtlasError: it took too long, or more memory than a reader has.
    """
    _require_numbers(limit, timeout)
    _require_text(text)
    arguments = {"path": str(path), "text": text, "rows": limit, "bundle": bundle}
    try:
        facts, rows_answered = run_confined("atlas.api.user_sql:answer", arguments, memory=MEMORY, seconds=timeout)
    except TookTooLong as error:
        raise AtlasError(f"the statement took longer than {timeout:g} s; a larger [[timeout]] gives it more") from error
    except NeedsMemory as error:
        raise AtlasError(f"the statement needs more memory than a reader has ({MEMORY / GIB:g} GiB)") from error
    assert rows_answered is not None
    return SelectedRows(rows_answered, facts["more"])


def answer(path: str, text: str, rows: int, bundle: bool, ready: Callable[[], None]) -> Result:
    """`run_sql`, in the process that is for it alone."""
    if bundle:
        from atlas.share.attach import attach_bundle

        opened = attach_bundle(path)
    else:
        opened = open_readonly(Path(path))
    with opened as connection:
        ready()
        result = answered(connection, text, rows=rows)
    return {"more": result.more}, result.rows


def answered(connection: duckdb.DuckDBPyConnection, text: str, *, rows: int) -> SelectedRows:
    """`run_sql` on a connection that is locked down already, for as long as it takes."""
    _require_text(text)
    statement = _one(connection, text)
    batches: list[pa.RecordBatch] = []
    reader: pa.RecordBatchReader
    try:
        reader = _plain(connection.sql(statement)).to_arrow_reader(min(rows + 1, 10_000))
        while sum(b.num_rows for b in batches) <= rows:
            batches.append(reader.read_next_batch())
            if sum(b.nbytes for b in batches) > LARGEST:
                raise AtlasError(
                    f"the answer has more than {LARGEST >> 20} MiB; select less, or give a smaller [[limit]]"
                )
    except StopIteration:
        pass
    except duckdb.OutOfMemoryException as error:
        raise AtlasError(f"the statement needs more memory than a reader has ({_said(error)})") from error
    except (duckdb.Error, pa.ArrowInvalid) as error:
        raise UsageError(f"DuckDB refuses the statement: {_said(error)}") from error
    except OSError as error:  # Arrow says so of a text that is longer than its columns hold
        raise AtlasError(f"the answer has more than {LARGEST >> 20} MiB; select less ({_said(error)})") from error
    table = pa.Table.from_batches(batches, schema=reader.schema)
    return SelectedRows(table.slice(0, rows), table.num_rows > rows)


def _require_numbers(rows: int, seconds: float) -> None:
    if not 1 <= rows <= MOST_ROWS or not 0 < seconds <= LONGEST:
        raise UsageError(
            f"[[limit]] is at least 1 and at most {MOST_ROWS:,}, [[timeout]] more than 0 and at most {LONGEST:g}"
        )


def _require_text(text: str) -> None:
    if "\0" in text or (not text.isascii() and text.encode(errors="replace").decode() != text):
        raise UsageError("an SQL statement is Unicode text without zero characters")


def _plain(relation: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    """The same rows with columns of different names (a, a_1), and types that every form of output can show."""
    names: list[str] = []
    for name in relation.columns:
        unique, number = name, 0
        while unique in names or (unique != name and unique in relation.columns):
            number += 1
            unique = f"{name}_{number}"
        names.append(unique)
    columns = []
    for place, (name, kind) in enumerate(zip(names, relation.types, strict=True), start=1):
        cast = "" if _PLAIN.fullmatch(str(kind)) else "::VARCHAR"
        quoted = name.replace('"', '""')
        columns.append(f'#{place}{cast} AS "{quoted}"')
    return relation.project(", ".join(columns))


def _one(connection: duckdb.DuckDBPyConnection, text: str) -> duckdb.Statement:
    try:
        statements = connection.extract_statements(text)
    except (duckdb.Error, UnicodeError) as error:
        raise UsageError(f"DuckDB cannot read the statement: {_said(error)}") from error
    if len(statements) != 1:
        raise UsageError(f"`atlas sql` takes one statement, not {len(statements)}")
    if statements[0].type != duckdb.StatementType.SELECT:
        kind = str(statements[0].type).rpartition(".")[2]
        raise UsageError(f"`atlas sql` only reads: a SELECT, not {kind}; what changes an atlas has commands of its own")
    return statements[0]


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:400]
