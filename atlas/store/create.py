"""Make an atlas: its folder, and an empty database of the current schema in it.

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
    """Make an atlas folder with an empty database of the current schema.

    Returns:
        False where there was an atlas already; it is left as it is.

    Raises:
        StoreUnavailable: the folder cannot be made or written, or holds a database of another schema.
    """
    require_plain(path)
    if path.exists() and not path.is_dir():
        raise StoreUnavailable(f"{path} is a file; an atlas is a folder, give another name with --atlas")
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
    return create(path) if database_file(path).exists() else _made(path)


def _made(path: Path) -> bool:
    """A new database, put in its place when it is whole; False where another process was faster."""
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
    """True for a database without any table: what is left where making it was interrupted."""
    return not connection.exec_driver_sql("SELECT count(*) FROM duckdb_tables()").scalar()
