"""Copies of the database under `backups/`."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

from atlas.store.database import database_file, revision, wal
from atlas.store.duckdb_errors import unwritable
from atlas.store.engine import connect_any_version, raw
from atlas.store.scratch import folder_lock


def backup(path: Path) -> Path:
    """Copy the database, and its write-ahead log where there is one, to `backups/`.

    Returns:
        The copy; it opens like the original.

    Raises:
        StoreUnavailable: no database, another process is writing it, or no room.
        IntegrityError: the file is damaged.
    """
    with connect_any_version(path, read_only=True) as connection:
        schema_revision = revision(raw(connection)) or "none"
    # Copied with the file closed: closing any handle of a file gives up this process's lock on it.
    return copy_aside(path, schema_revision)


def backup_name(folder: Path, label: str) -> str:
    """An unused name `atlas-<UTC>-<label>.duckdb`; names sort by time."""
    moment = datetime.now(UTC)
    while (folder / (name := f"atlas-{moment:%Y%m%dT%H%M%S.%f}-{label}.duckdb")).exists():
        moment += timedelta(microseconds=1)
    return name


def copy_aside(path: Path, label: str) -> Path:
    """Copy the database file and its log unchanged, readable or not, to `backups/`.

    Raises:
        StoreUnavailable: no room, or the folder cannot be written; no incomplete copy is left.
    """
    folder = path / "backups"
    target = folder / backup_name(folder, label)
    copies = [(file, target.with_name(name)) for file, name in _files_to_copy(path, target.name) if file.exists()]
    try:
        folder.mkdir(exist_ok=True)
        with folder_lock(folder):
            for leftover in folder.glob("*.partial"):  # left by a copy that was killed, as no other is running
                leftover.unlink()
            try:
                for file, copy in copies:
                    shutil.copyfile(file, copy.with_name(f"{copy.name}.partial"))
                for _file, copy in copies:
                    copy.with_name(f"{copy.name}.partial").replace(copy)
            finally:
                for _file, copy in copies:
                    copy.with_name(f"{copy.name}.partial").unlink(missing_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from error
    return target


def _files_to_copy(path: Path, name: str) -> list[tuple[Path, str]]:
    """The files and the names of their copies. The log first, as a log without its database is not used as a backup."""
    return [(wal(path), f"{name}.wal"), (database_file(path), name)]
