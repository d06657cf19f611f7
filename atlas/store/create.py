"""Create an atlas: its folder, and an empty database of the current schema in it.

An atlas is a folder:

    atlas.duckdb   the serving database; `atlas db rebuild` makes it again from runs/ and edits/
    runs/          one folder a run: Parquet shards and a manifest (`atlas.store.run_writer`), the source of truth
    edits/         safetensors of weight deltas
    vectors/       similarity indexes, a disposable cache
    backups/       copies of the database, made before every migration
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection

from atlas.errors import StoreUnavailable
from atlas.store.database import database_file, missing, require_current, require_plain, wal
from atlas.store.duckdb_errors import full, unwritable
from atlas.store.engine import connect_any_version, fold_log, raw
from atlas.store.migrations import migrate
from atlas.store.scratch import folder_lock, scratch_folder

FOLDERS = ("runs", "vectors", "edits")


def init(path: Path) -> bool:
    """Create an atlas folder with an empty database of the current schema.

    Returns:
        False where there was an atlas already; it is not changed.

    Raises:
        StoreUnavailable: the folder cannot be created or written, or has a database of another schema.
    """
    require_plain(path)
    if path.exists() and not path.is_dir():
        raise StoreUnavailable(f"{path} is a file; an atlas is a folder, give another name as [[atlas]]")
    if not database_file(path).exists():
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
    return create(path) if database_file(path).exists() else _create_database(path)


def _create_database(path: Path) -> bool:
    """Create the database and move it into place when it is complete; False where another process was faster."""
    with scratch_folder(path, "init") as folder:
        create(folder)
        if wal(folder).exists():
            raise full(path)
        with folder_lock(path):
            if database_file(path).exists():
                return False
            database_file(folder).replace(database_file(path))
    return True


def create(path: Path) -> bool:
    """Put an empty database of the current schema into an atlas folder.

    Returns:
        False where there was a database of the current schema already.

    Raises:
        StoreUnavailable: there is a database that is not an atlas, or of another schema version.
    """
    new = not database_file(path).exists()
    with connect_any_version(path, read_only=False, create=True) as connection:
        with connection.begin():
            if not new and not _empty(connection):
                require_current(raw(connection), path)
                return False
            migrate(connection)
        fold_log(connection, path)
    return True


def _empty(connection: Connection) -> bool:
    """Whether a database has no tables, as after an interrupted creation."""
    return not connection.exec_driver_sql("SELECT count(*) FROM duckdb_tables()").scalar()
