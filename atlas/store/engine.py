"""SQLAlchemy connections to the database: for readers, for the one writer, and for any schema version.

One process may write, or several may read, never both: DuckDB locks the file, and the second process waits a moment,
then gets an error that names the first. Threads of a process wait for each other (`atlas.store.locks`). Write-ahead
logs are never removed here.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import sqlalchemy as sa
from sqlalchemy import Connection, Engine
from sqlalchemy.dialects import registry
from sqlalchemy.pool import NullPool

from atlas.store.database import database_file, missing, open_file, require_current, wal
from atlas.store.dialect import Driver, DuckDBDialect
from atlas.store.duckdb_errors import is_full, translate_duckdb_errors
from atlas.store.locks import COMPARE, WRITE, database_lock

registry.register(DuckDBDialect.name, DuckDBDialect.__module__, DuckDBDialect.__name__)


@contextmanager
def connect_readonly(path: Path) -> Iterator[Connection]:
    """Open the database for reading, locked down: no writes, no other file, no extension, no further setting.

    Only `runs/` can be read besides the database, so that the two can be compared.

    Raises:
        StoreUnavailable: missing, being written by another process, or of another schema version.
        IntegrityError: the file is damaged.
    """
    with connect_any_version(path, read_only=True) as connection:
        require_current(raw(connection), path)
        yield connection


@contextmanager
def connect_writer(path: Path, *, wait: float | None = None) -> Iterator[Connection]:
    """Open the database for writing, in one transaction: all of the block is stored, or nothing.

    wait: seconds to go on trying while other processes have it open, by default `atlas.store.database.PATIENCE`.

    Raises:
        StoreUnavailable: missing, in use by another process, read-only, or of another schema version.
        IntegrityError: the file is damaged.
    """
    with connect_any_version(path, read_only=False, wait=wait) as connection:
        with connection.begin():
            require_current(raw(connection), path)
            yield connection
        fold_log(connection, path)


@contextmanager
def connect_any_version(
    path: Path, *, read_only: bool, create: bool = False, wait: float | None = None
) -> Iterator[Connection]:
    """Open the database whatever its schema version, with no transaction begun: for migrations and backups."""
    if not create and not database_file(path).is_file():
        raise missing(path)
    with database_lock(database_file(path), COMPARE if read_only else WRITE):
        engine = make_engine(path, read_only=read_only, wait=wait)
        try:
            with translate_duckdb_errors(path, read_only=read_only), engine.connect() as connection:
                yield connection
        finally:
            engine.dispose()


def fold_log(connection: Connection, path: Path) -> None:
    """Write what was committed into the database file itself. On a full disk it stays in the log, where it is safe."""
    try:
        raw(connection).execute("CHECKPOINT")
    except duckdb.Error as error:
        if not is_full(error):
            raise
        print(  # noqa: T201
            f"the disk of {path} is full; what was stored is safe in {wal(path).name}: free some space", file=sys.stderr
        )


def make_engine(path: Path, *, read_only: bool, wait: float | None = None) -> Engine:
    """An engine whose every connection opens and closes the file; the caller disposes of it."""
    # An open transaction ends with the connection; another rollback would only print a traceback after a fatal error.
    return sa.create_engine(
        f"{DuckDBDialect.name}://",
        poolclass=NullPool,
        pool_reset_on_return=None,
        creator=lambda: _driver(path, read_only, wait),
    )


def _driver(path: Path, read_only: bool, wait: float | None) -> Driver:
    return Driver(open_file(path, read_only=read_only, files=True, wait=wait))


def raw(connection: Connection) -> Any:
    """DuckDB's own connection below SQLAlchemy's: same session, same transaction."""
    driver: Any = connection.connection.driver_connection
    # A result of which only the first row was read would refuse everything but the next statement.
    driver.complete()
    return driver
