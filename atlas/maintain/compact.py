"""Rewrite the database without the space of removed runs."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from atlas.store import create, schema
from atlas.store.database import database_file, literal, missing, open_file, require_current, wal
from atlas.store.duckdb_errors import translate_duckdb_errors
from atlas.store.locks import WRITE, database_lock
from atlas.store.scratch import scratch_folder


@dataclass(frozen=True, slots=True)
class Compacted:
    """Bytes of the database file and its log, before and after."""

    before: int
    after: int


def compact(path: Path) -> Compacted:
    """Rewrite the database without the space of removed rows, and replace the old file.

    If it is killed, either the old file or the new one is in place, complete. Needs as much free disk as the database.

    Raises:
        StoreUnavailable: another process has the database open, or the folder cannot be written.
    """
    if not database_file(path).is_file():
        raise missing(path)
    with translate_duckdb_errors(path, read_only=False), scratch_folder(path, "compact") as folder:
        create.create(folder)
        before = _size(path)
        _copy_rows(path, database_file(folder))
    return Compacted(before, _size(path))


def _copy_rows(path: Path, new: Path) -> None:
    """Copy every row of the database to a new file, which then replaces it, all under the lock."""
    with database_lock(database_file(path), WRITE), closing(open_file(path, read_only=False)) as driver:
        require_current(driver, path)
        driver.execute("CHECKPOINT")  # so that no log is left beside the new file
        driver.execute(f"ATTACH {literal(new.resolve())} AS compacted")
        driver.execute("BEGIN")
        for table in schema.metadata.sorted_tables:  # in the order of storage: scores stay map by map
            driver.execute(f'INSERT INTO compacted."{table.name}" SELECT * FROM "{table.name}"')
        driver.execute("COMMIT")
        driver.execute("CHECKPOINT compacted")
        driver.execute("DETACH compacted")
        new.replace(database_file(path))


def _size(path: Path) -> int:
    return sum(f.stat().st_size for f in (database_file(path), wal(path)) if f.exists())
