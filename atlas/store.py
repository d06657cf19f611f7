"""The atlas folder and its database: make it, open it for reading or writing.

An atlas is a folder:

    atlas.duckdb   the serving database; `atlas db rebuild` makes it again from runs/ and edits/
    runs/          one folder a run: Parquet shards and a manifest (see atlas/runs.py), the source of truth
    edits/         safetensors of weight deltas
    vectors/       similarity indexes, a disposable cache
    backups/       copies of the database, made before every migration

One process may write, or several may read, never both: DuckDB locks the file. Write-ahead logs are never removed here.
"""

from __future__ import annotations

import atexit
import functools
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import sqlalchemy as sa
from sqlalchemy import Connection, Engine
from sqlalchemy.pool import NullPool

from atlas.errors import StoreUnavailable
from atlas.failures import explained, unwritable
from atlas.schema import VERSION

STORAGE = "v1.5.0"
"""Storage version of new files: DuckDB 1.5 reads them too, at no measurable cost in speed or size."""

READER_CONFIG: dict[str, str | bool] = {
    "memory_limit": "4GiB",
    "max_temp_directory_size": "16GiB",
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "allow_community_extensions": False,
}
_LOCKED_DOWN = {
    "access_mode": "read_only",
    "memory_limit": "4.0 GiB",
    "max_temp_directory_size": "16.0 GiB",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "enable_external_access": "false",
    "lock_configuration": "true",
}
"""What a read connection must report of itself before it is used."""

FOLDERS = ("runs", "vectors", "edits")


def database(path: Path) -> Path:
    """The database file of an atlas."""
    return path / "atlas.duckdb"


def wal(path: Path) -> Path:
    """DuckDB's write-ahead log beside it: committed rows that are not in the file yet."""
    return path / "atlas.duckdb.wal"


def init(path: Path) -> bool:
    """Make an atlas folder with an empty database of the current schema.

    Returns:
        False where there was an atlas already; it is left as it is.

    Raises:
        StoreUnavailable: the folder cannot be made or written, or holds a database of another schema.
    """
    from atlas import migrate

    if path.exists() and not path.is_dir():
        raise StoreUnavailable(f"{path} is a file; an atlas is a folder, give another name with --atlas")
    if not database(path).exists():
        if wal(path).exists():
            raise StoreUnavailable(
                f"{wal(path)} is the log of a database that is gone; put the database back, or move the log away first"
            )
        if any((path / "runs").glob("*/manifest.json")):
            raise missing(path)
    try:
        for name in FOLDERS:
            (path / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(path, error) from error
    return migrate.create(path)


@contextmanager
def connect_readonly(path: Path) -> Iterator[Connection]:
    """Open the database for reading, locked down: no writes, no other file, no extension, no further setting.

    Only `runs/` can be read besides the database, so that the two can be compared.

    Raises:
        StoreUnavailable: missing, being written by another process, or of another schema version.
        IntegrityError: the file is damaged.
    """
    with connect_any_version(path, read_only=True) as connection:
        require_current(connection, path)
        yield connection


@contextmanager
def connect_writer(path: Path) -> Iterator[Connection]:
    """Open the database for writing, in one transaction: all of the block is stored, or nothing of it.

    Raises:
        StoreUnavailable: missing, in use by another process, read-only, or of another schema version.
        IntegrityError: the file is damaged.
    """
    with connect_any_version(path, read_only=False) as connection:
        with connection.begin():
            require_current(connection, path)
            yield connection
        raw(connection).execute("CHECKPOINT")


@contextmanager
def connect_any_version(path: Path, *, read_only: bool, create: bool = False) -> Iterator[Connection]:
    """Open the database whatever its schema version, with no transaction begun: for migrations and backups."""
    if not create and not database(path).is_file():
        raise missing(path)
    engine = make_engine(path, read_only=read_only)
    try:
        with explained(path, read_only=read_only), engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def missing(path: Path) -> StoreUnavailable:
    """The error for a folder without a database: make one, or make it again where there are runs."""
    if any((path / "runs").glob("*/manifest.json")):
        return StoreUnavailable(
            f"the atlas at {path} has runs but no database; `atlas db rebuild --atlas {path}` makes it from them"
        )
    return StoreUnavailable(f"there is no atlas at {path}; `atlas init --atlas {path}` makes one")


def make_engine(path: Path, *, read_only: bool) -> Engine:
    """An engine whose every connection opens and closes the file; the caller disposes of it."""
    # Opening the file ourselves spares duckdb-engine's own setup, a second in-memory database for each connection.
    return sa.create_engine("duckdb://", poolclass=NullPool, creator=lambda: _open(path, read_only=read_only))


def _open(path: Path, *, read_only: bool) -> Any:
    from duckdb_engine import ConnectionWrapper

    config: dict[str, str | bool | int | float | list[str]]
    if read_only:
        config = {**READER_CONFIG, "temp_directory": _spill_folder()}
    else:
        config = {"autoinstall_known_extensions": False, "autoload_known_extensions": False}
        if not database(path).exists():
            config["storage_compatibility_version"] = STORAGE
    driver = duckdb.connect(str(database(path).resolve()), read_only=read_only, config=config)
    try:
        if read_only:
            _lock_down(driver, path)
    except BaseException:
        driver.close()
        raise
    return ConnectionWrapper(driver)


@functools.cache
def _spill_folder() -> str:
    """Where this process's readers spill. Its own: two processes that share a folder overwrite each other's files."""
    folder = tempfile.TemporaryDirectory(prefix="neuron-atlas-")
    atexit.register(folder.cleanup)
    return folder.name


def _lock_down(driver: duckdb.DuckDBPyConnection, path: Path) -> None:
    query = f"SELECT name, value FROM duckdb_settings() WHERE name IN ({', '.join(map(literal, _LOCKED_DOWN))})"
    # Readers of one process share their settings: the second one finds them locked.
    if dict(driver.execute(query).fetchall())["lock_configuration"] != "true":
        driver.execute(f"SET allowed_directories = [{literal((path / 'runs').resolve())}]")
        driver.execute("SET enable_external_access = false")
        driver.execute("SET lock_configuration = true")
    found = dict(driver.execute(query).fetchall())
    wrong = sorted(name for name, value in _LOCKED_DOWN.items() if found.get(name) != value)
    if wrong:
        raise StoreUnavailable(f"this DuckDB does not accept the read-only settings {', '.join(wrong)}")


def require_current(connection: Connection, path: Path) -> None:
    """Refuse a database whose schema is not the one this code reads and writes.

    Raises:
        StoreUnavailable: older (upgrade it), newer (upgrade the program), or not an atlas.
    """
    found = revision(connection)
    if found == VERSION:
        return
    if found is None:
        raise StoreUnavailable(f"{database(path)} has no atlas schema; `atlas init --atlas {path}` makes an empty one")
    if found < VERSION:
        raise StoreUnavailable(
            f"the atlas at {path} has schema {found}, this program needs {VERSION}; "
            f"`atlas db upgrade --atlas {path}` upgrades it and keeps a backup"
        )
    raise StoreUnavailable(
        f"the atlas at {path} has schema {found}, newer than {VERSION}, the newest this program knows; "
        "`pip install --upgrade neuron-atlas`"
    )


def revision(connection: Connection) -> str | None:
    """The schema revision of the database, or None where it has none."""
    named = "SELECT count(*) FROM duckdb_tables() WHERE table_name = 'alembic_version'"
    if not connection.exec_driver_sql(named).scalar():
        return None
    found = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    return None if found is None else str(found)


def raw(connection: Connection) -> Any:
    """DuckDB's own connection below SQLAlchemy's: same session, same transaction."""
    driver: Any = connection.connection.driver_connection
    # A result of which only the first row was read would refuse everything but the next statement.
    driver.complete()
    return driver


def literal(value: object) -> str:
    """An SQL string literal."""
    return "'" + str(value).replace("'", "''") + "'"
