"""One statement of the owner's own SQL, on a connection that can read the database and nothing else.

Closed by settings that are read back (no file, no network, no extension, no attaching, no setting, no Python object),
and beside these one SELECT at a time, a number of rows, a time.
"""

from __future__ import annotations

import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa

from atlas.database import reading
from atlas.errors import AtlasError, UsageError

ROWS, SECONDS = 1000, 60.0
"""How many rows and how long, unless the owner says otherwise."""

MOST_ROWS, LONGEST = 10**9, 86_400.0

_PLAIN = re.compile(r"(U?(TINY|SMALL|BIG)?INT|U?INTEGER|FLOAT|DOUBLE|DECIMAL\(\d+,\d+\)|BOOLEAN|VARCHAR)(\[\d*\])*")
"""Types that every form of output can show; others come as DuckDB's own text."""


@dataclass(frozen=True, slots=True)
class Answer:
    """rows: at most as many as asked for. more: there are others."""

    rows: pa.Table
    more: bool


def run_sql(path: Path, text: str, *, rows: int = ROWS, seconds: float = SECONDS) -> Answer:
    """Answer one SELECT (or DESCRIBE, SUMMARIZE, SHOW) over the tables of `atlas.schema`.

    Raises:
        UsageError: not one reading statement, or DuckDB refuses it.
        AtlasError: it took too long, or more memory than a reader has.
    """
    with reading(path) as connection:
        return answered(connection, text, rows=rows, seconds=seconds)


def answered(connection: duckdb.DuckDBPyConnection, text: str, *, rows: int, seconds: float) -> Answer:
    """`run_sql` on a connection that is locked down already."""
    if not 1 <= rows <= MOST_ROWS or not 0 < seconds <= LONGEST:
        raise UsageError(
            f"--limit is at least 1 and at most {MOST_ROWS:,}, --timeout more than 0 and at most {LONGEST:g}"
        )
    statement = _one(connection, text)
    batches: list[pa.RecordBatch] = []
    found: pa.RecordBatchReader
    with _stopped_after(connection, seconds) as expired:
        try:
            found = _plain(connection.sql(statement)).to_arrow_reader(min(rows + 1, 10_000))
            while sum(b.num_rows for b in batches) <= rows:
                batches.append(found.read_next_batch())
        except StopIteration:
            pass
        except (duckdb.InterruptException, RuntimeError) as error:
            if "nterrupted" not in str(error):
                raise
            if not expired.is_set():
                raise KeyboardInterrupt from error
            raise AtlasError(f"the statement took longer than {seconds:g} s; --timeout gives it more") from error
        except duckdb.OutOfMemoryException as error:
            raise AtlasError(f"the statement needs more memory than a reader has ({_said(error)})") from error
        except (duckdb.Error, pa.ArrowInvalid) as error:
            raise UsageError(f"DuckDB refuses the statement: {_said(error)}") from error
    table = pa.Table.from_batches(batches, schema=found.schema)
    return Answer(table.slice(0, rows), table.num_rows > rows)


def _plain(found: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    """The same rows with columns of different names (a, a_1), and types that every form of output can show."""
    names: list[str] = []
    for name in found.columns:
        unique, number = name, 0
        while unique in names or (unique != name and unique in found.columns):
            number += 1
            unique = f"{name}_{number}"
        names.append(unique)
    columns = []
    for place, (name, kind) in enumerate(zip(names, found.types, strict=True), start=1):
        cast = "" if _PLAIN.fullmatch(str(kind)) else "::VARCHAR"
        quoted = name.replace('"', '""')
        columns.append(f'#{place}{cast} AS "{quoted}"')
    return found.project(", ".join(columns))


def _one(connection: duckdb.DuckDBPyConnection, text: str) -> duckdb.Statement:
    if "\0" in text or (not text.isascii() and text.encode(errors="replace").decode() != text):
        raise UsageError("an SQL statement is Unicode text without zero characters")
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


@contextmanager
def _stopped_after(connection: duckdb.DuckDBPyConnection, seconds: float) -> Iterator[threading.Event]:
    """Interrupt the connection after so long, or at Ctrl-C, which DuckDB itself does not always notice. The event
    tells that it was for the time."""
    expired, done = threading.Event(), threading.Event()
    reader, writer = socket.socketpair()
    watch = threading.Thread(target=_watch, args=(connection, reader, seconds, expired, done), daemon=True)
    with reader, writer, _signals_to(writer):
        try:
            watch.start()
            yield expired
        finally:
            done.set()
            with suppress(OSError):  # full of signals that nobody reads any more
                writer.send(b"\0")
            if watch.ident is not None:
                watch.join()


def _watch(
    connection: duckdb.DuckDBPyConnection,
    reader: socket.socket,
    seconds: float,
    expired: threading.Event,
    done: threading.Event,
) -> None:
    deadline, pressed = time.monotonic() + seconds, False
    while not pressed and not done.is_set():
        reader.settimeout(max(deadline - time.monotonic(), 1e-3))
        try:
            pressed = signal.SIGINT in reader.recv(64)
        except TimeoutError:
            expired.set()
            break
    while not done.is_set():
        connection.interrupt()  # again and again: a statement that is about to begin takes no notice of it
        done.wait(0.05)


@contextmanager
def _signals_to(writer: socket.socket) -> Iterator[None]:
    """Have the number of every signal that comes written to a socket, at once, whatever the main thread is doing.

    Whoever else waits for signals so (an event loop) is told none meanwhile.
    """
    writer.setblocking(False)
    if threading.current_thread() is not threading.main_thread():  # which alone has to do with signals
        yield
        return
    before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before, warn_on_full_buffer=False)


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:400]
