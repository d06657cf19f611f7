"""The database file: where it is, how it is opened and locked down, and which schema it has. Without SQLAlchemy.

Questions use `open_readonly`, which takes a third of the time that SQLAlchemy's engine takes to load.
"""

from __future__ import annotations

import atexit
import functools
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import duckdb

from atlas.errors import StoreUnavailable, UsageError
from atlas.store.duckdb_errors import LOCKED, translate_duckdb_errors
from atlas.store.locks import ASK, database_lock
from atlas.store.pins_file import apply_pins
from atlas.store.time_limit import limited
from atlas.store.waiting_writer import announcement

VERSION = "0008"
"""The alembic revision this code reads and writes."""

STORAGE = "v1.5.0"
"""Storage version of new files, which DuckDB 1.5 can read, at no measurable cost in speed or size."""

PATIENCE = 3.0
"""Seconds that a reader or writer waits for another process that writes or reads."""

READER_CONFIG: dict[str, str | bool] = {
    "memory_limit": "4GiB",
    "max_temp_directory_size": "16GiB",
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "allow_community_extensions": False,
    "python_enable_replacements": False,  # a name in SQL is never a variable of this process
}
_LOCKED_DOWN: dict[str, str | bool] = {
    **READER_CONFIG,
    "access_mode": "read_only",
    "memory_limit": "4.0 GiB",
    "max_temp_directory_size": "16.0 GiB",
    "enable_external_access": False,
    "lock_configuration": True,
}
"""The settings that a read connection must report before it is used."""


def database_file(path: Path) -> Path:
    """The database file of an atlas."""
    return path / "atlas.duckdb"


def wal(path: Path) -> Path:
    """DuckDB's write-ahead log beside the database: committed rows that are not in the file yet."""
    return path / "atlas.duckdb.wal"


@contextmanager
def open_readonly(path: Path, *, pinned: bool = True) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open the database for questions, locked down: no writes, no other file, no extension, no further setting.

    pinned: whether the atlas's pins fill in what questions leave open (`atlas.query.pins`).

    Raises:
        StoreUnavailable: missing, written by another process for longer than `PATIENCE`, or of another schema version.
        IntegrityError: the file is damaged.
    """
    if not database_file(path).is_file():
        raise missing(path)
    with database_lock(database_file(path), ASK), translate_duckdb_errors(path, read_only=True):
        driver = open_file(path, read_only=True)
        try:
            require_current(driver, path)
            with apply_pins(path) if pinned else nullcontext(), limited(driver):
                yield driver
        finally:
            driver.close()


def require_plain(path: Path) -> None:
    """Refuse a folder whose name DuckDB would read as a pattern, matching other files too, or as a URL's query.

    Raises:
        UsageError: with the character that is not allowed.
    """
    resolved = str(path.resolve())
    if any("\ud800" <= sign <= "\udfff" for sign in resolved):
        raise UsageError(f"the folder {path} has a name that is not valid UTF-8; give it another")
    for sign in "*?[":
        if sign in resolved:
            raise UsageError(
                f"the folder {path} has a '{sign}' in its path, which DuckDB reads as a pattern; rename it"
            )


def open_file(
    path: Path, *, read_only: bool, files: bool = False, wait: float | None = None
) -> duckdb.DuckDBPyConnection:
    """Open the file; a reader is locked down first. The caller closes it, and holds its lock
    (`atlas.store.locks.database_lock`).

    files: a reader may read `runs/` besides the database, to compare the two. wait: seconds to go on trying while
    other processes have it open, by default `PATIENCE`.
    """
    require_plain(path)
    deadline = time.monotonic() + (PATIENCE if wait is None else wait)
    with announcement(path) as waiting:
        while True:
            try:
                with _opening:
                    return _connect(path, read_only, files)
            except duckdb.IOException as error:
                if LOCKED not in str(error) or time.monotonic() >= deadline:
                    raise
                if not read_only:
                    waiting.touch()
                time.sleep(0.05)


_opening = threading.Lock()
"""Keeps a thread from finding an instance with only some of its settings."""


def _connect(path: Path, read_only: bool, files: bool) -> duckdb.DuckDBPyConnection:
    config: dict[str, str | bool | int | float | list[str]]
    if read_only:
        config = {**READER_CONFIG, "temp_directory": _spill_folder()}
    else:
        config = {"autoinstall_known_extensions": False, "autoload_known_extensions": False}
        if not database_file(path).exists():
            config["storage_compatibility_version"] = STORAGE
    driver = duckdb.connect(str(database_file(path).resolve()), read_only=read_only, config=config)
    try:
        if read_only:
            lock_down(driver, [path / "runs"] if files else [])
    except BaseException:
        driver.close()
        raise
    return driver


@functools.cache
def _spill_folder() -> str:
    """Where this process's readers spill; two processes that share a folder would overwrite each other's files."""
    folder = tempfile.TemporaryDirectory(prefix="neuron-atlas-")
    atexit.register(folder.cleanup)
    return folder.name


def lock_down(
    driver: duckdb.DuckDBPyConnection, folders: Sequence[Path] = (), files: Sequence[str] | None = None
) -> None:
    """Restrict a reader to these folders and files (paths or URLs), lock its settings, then verify them.

    files: for a database in memory only, which has no file that could be opened read-only.

    Raises:
        StoreUnavailable: a setting has another value than was set.
    """
    # Readers of one process share their settings: the second one finds them locked.
    if not driver.execute("SELECT current_setting('lock_configuration')").fetchall()[0][0]:
        driver.execute(f"SET allowed_directories = [{', '.join(literal(f.resolve()) for f in folders)}]")
        if files is not None:
            driver.execute(f"SET allowed_paths = [{', '.join(map(literal, files))}]")
        driver.execute("SET enable_external_access = false")
        driver.execute("SET lock_configuration = true")
    expected: dict[str, object] = dict(_LOCKED_DOWN)
    if files is not None:
        del expected["access_mode"]
        expected["allowed_paths"] = sorted(files)
    query = f"SELECT {', '.join(f'current_setting({literal(name)})' for name in expected)}"
    settings = zip(expected.items(), driver.execute(query).fetchall()[0], strict=True)
    refused = sorted(
        name for (name, value), actual in settings if (sorted(actual) if isinstance(value, list) else actual) != value
    )
    if refused:
        raise StoreUnavailable(f"this DuckDB does not accept the read-only settings {', '.join(refused)}")


def missing(path: Path) -> StoreUnavailable:
    """The error for a folder without a database: create one, or rebuild it where there are runs."""
    if any((path / "runs").glob("*/manifest.json")):
        return StoreUnavailable(
            f"the atlas at {path} has runs but no database; `atlas db rebuild --atlas {path}` makes it from them"
        )
    return StoreUnavailable(f"there is no atlas at {path}; `atlas init --atlas {path}` makes one")


def require_current(driver: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Refuse a database whose schema is not the one this code reads and writes.

    Raises:
        StoreUnavailable: older (upgrade it), newer (upgrade the program), or not an atlas.
    """
    schema_revision = revision(driver)
    if schema_revision == VERSION:
        return
    if schema_revision is None:
        raise StoreUnavailable(
            f"{database_file(path)} has no atlas schema; `atlas init --atlas {path}` makes an empty one"
        )
    if schema_revision < VERSION:
        raise StoreUnavailable(
            f"the atlas at {path} has schema {schema_revision}, this program needs {VERSION}; "
            f"`atlas db upgrade --atlas {path}` upgrades it and keeps a backup"
        )
    raise StoreUnavailable(
        f"the atlas at {path} has schema {schema_revision}, newer than {VERSION}, the newest this program knows; "
        "`pip install --upgrade neuron-atlas`"
    )


def revision(driver: duckdb.DuckDBPyConnection) -> str | None:
    """The schema revision of the database, or None where it has none."""
    try:
        rows = driver.execute("SELECT version_num FROM alembic_version").fetchall()
    except duckdb.CatalogException:  # no such table
        return None
    return str(rows[0][0]) if rows else None


def literal(value: object) -> str:
    """An SQL string literal."""
    return "'" + str(value).replace("'", "''") + "'"
