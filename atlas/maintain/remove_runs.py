"""Remove runs permanently: their rows and their folders."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import sqlalchemy as sa

from atlas.errors import StoreUnavailable, UsageError
from atlas.query.run_record import run_named
from atlas.store import schema
from atlas.store.database import open_readonly
from atlas.store.engine import connect_writer
from atlas.store.run_loader import SHARED_TABLES, forget_run
from atlas.store.run_manifest import NAME, SHARDS, folder_of, read_manifest, shard_rows


@dataclass(frozen=True, slots=True)
class Removed:
    """A removed run. maps: how many it had in the database. bytes: of its folder."""

    run_id: str
    maps: int
    bytes: int


def full_ids(path: Path, runs: Sequence[str]) -> list[str]:
    """The full ids of runs given by prefixes.

    Raises:
        UsageError: a prefix matches no run, or several.
    """
    with open_readonly(path) as connection:
        return list(dict.fromkeys(_full_id(connection, path, run) for run in runs))


def _full_id(connection: duckdb.DuckDBPyConnection, path: Path, run: str) -> str:
    """The run's id; also of one whose removal was interrupted, so that only its folder is left."""
    try:
        return run_named(connection, run)
    except UsageError:
        folders = [f.name for f in (path / "runs").iterdir() if run and f.name.startswith(run)]
        stored = connection.execute("SELECT count(*) FROM runs WHERE starts_with(run_id, $run)", {"run": run})
        if len(folders) != 1 or stored.fetchall() != [(0,)] or (folder_of(path, folders[0]) / NAME).exists():
            raise
        return folders[0]


def remove_runs(path: Path, run_ids: Sequence[str]) -> Iterator[Removed]:
    """Remove runs one after another: the rows and the manifest in one transaction, then the folder. Rows that other
    runs' folders have too stay. After an interruption the same call continues.

    Raises:
        StoreUnavailable: a process is running the job, or has the database open.
    """
    for run_id in run_ids:
        folder = folder_of(path, run_id)
        with connect_writer(path) as connection:
            require_idle(folder)
            of_run = sa.select(sa.func.count()).select_from(schema.maps).where(schema.maps.c.run_id == run_id)
            maps = int(connection.execute(of_run).scalar_one())
            forget_run(connection, run_id)
            connection.execute(sa.delete(schema.runs).where(schema.runs.c.run_id == run_id))
            _forget_shared(connection, path)
            (folder / NAME).unlink(missing_ok=True)
        size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) if folder.is_dir() else 0
        for index in (path / "vectors").glob(f"{run_id}*"):
            index.unlink()
        shutil.rmtree(folder, ignore_errors=True)  # last, so that an interrupted removal can be repeated
        yield Removed(run_id, maps, size)


def require_idle(folder: Path) -> None:
    """Raise StoreUnavailable where a process is running the job of this folder."""
    import fcntl

    if not (folder / "lock").exists():
        return
    with (folder / "lock").open("r+") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StoreUnavailable(f"a process is running {folder.name[:8]} right now; stop it first") from None


def _forget_shared(connection: sa.Connection, path: Path) -> None:
    """Remove shared rows that no remaining run's folder has."""
    for name, key in SHARED_TABLES.items():
        table, owner = SHARDS[name], key[0]
        for number in connection.exec_driver_sql(f"SELECT DISTINCT {owner} FROM {name}").scalars().all():
            files = list(_shards(connection, path, name, owner, int(number)))
            same = ", ".join(key[1:])
            in_folders = " UNION ALL ".join(f"SELECT {same} FROM ({shard_rows(table, f, r)})" for f, r in files)
            of_owner = f"{owner} = {int(number)}"
            if not files:
                connection.exec_driver_sql(f"DELETE FROM {name} WHERE {of_owner}")
                continue
            rows_to_keep = f"SELECT ({same}) FROM ({in_folders})"
            connection.exec_driver_sql(f"DELETE FROM {name} WHERE {of_owner} AND ({same}) NOT IN ({rows_to_keep})")


def _shards(connection: sa.Connection, path: Path, name: str, owner: str, number: int) -> Iterator[tuple[Path, str]]:
    query = f"SELECT run_id FROM runs WHERE {owner} = {number} AND status = 'done'"
    for run_id in connection.exec_driver_sql(query).scalars().all():
        folder = folder_of(path, run_id)
        if (folder / f"{name}.parquet").is_file() and (folder / NAME).is_file():
            manifest = read_manifest(folder, verify=False)
            if f"{name}.parquet" in manifest["files"]:
                yield folder / f"{name}.parquet", str(manifest["schema"])
