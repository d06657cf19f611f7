"""The database made again from runs/ and edits/."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
from sqlalchemy import Connection

from atlas.edits.files import convert_old, sweep
from atlas.edits.rows import load_edit
from atlas.errors import IntegrityError, StoreUnavailable
from atlas.store import backup, create
from atlas.store.database import VERSION, database_file, revision, wal
from atlas.store.duckdb_errors import full
from atlas.store.engine import connect_any_version, connect_writer, raw
from atlas.store.run_loader import load_run
from atlas.store.run_manifest import read_manifest
from atlas.store.scratch import scratch_folder

StoredEdit: TypeAlias = tuple[Mapping[str, Any], pa.Table]
"""What `load_edit` takes, as read back from one file of edits/."""


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What a rebuild stored, where it put the old database (None: there was none), and what it left out and why."""

    runs: int
    edits: int
    old: Path | None
    skipped: tuple[str, ...]


def rebuild(path: Path, *, read_edit: Callable[[Path], StoredEdit]) -> Rebuilt:
    """Make a new database from every complete run folder and every edit; the old one is moved to `backups/`.

    A folder that is damaged or was never finished is left out and named. The ledger's rows of interrupted and
    failed runs are only in the database and are not made again.

    read_edit: one file of `edits/` -> what `load_edit` takes.

    Raises:
        StoreUnavailable: no runs/ there, the database is in use, newer than this program, or the folder is read-only.
    """
    if not (path / "runs").is_dir():
        raise StoreUnavailable(f"there is no atlas at {path}: it has no folder runs/")
    _require_free(path)
    with scratch_folder(path, "rebuild") as folder:
        create.create(folder)
        convert_old(path)
        skipped: list[str] = []
        loaded = [_stored(folder, skipped, partial(load_run, folder=run)) for run in _finished(path, skipped)]
        edited = [
            _stored(folder, skipped, partial(_load_edit_file, file=file, read_edit=read_edit))
            for file in sorted((path / "edits").glob("*@*.json"))
        ]
        if wal(folder).exists():  # there was no room to write it into the file, which alone is moved
            raise full(path)
        old = _swap(path, database_file(folder))
    return Rebuilt(runs=sum(loaded), edits=sum(edited), old=old, skipped=tuple(skipped))


def _load_edit_file(connection: Connection, *, file: Path, read_edit: Callable[[Path], StoredEdit]) -> None:
    row, rows = read_edit(file)
    load_edit(connection, row, rows)


def _require_free(path: Path) -> None:
    """Refuse where another process has the database open, or it is newer; a damaged one is what a rebuild is for.

    While it is ours, tensors that no edit names are removed.
    """
    if not database_file(path).exists():
        return
    try:
        with connect_any_version(path, read_only=False) as connection:
            found = revision(raw(connection))
            if found is None or found <= VERSION:
                sweep(path)  # here nobody else writes: another may have tensors and not yet the edit that names them
    except IntegrityError:
        return
    if found is not None and found > VERSION:
        raise StoreUnavailable(f"the atlas at {path} has schema {found}, newer than {VERSION}; upgrade neuron-atlas")


def _finished(path: Path, skipped: list[str]) -> list[Path]:
    """The run folders that have a manifest, in the order in which the runs finished."""
    found: list[tuple[str, Path]] = []
    for folder in sorted(f for f in (path / "runs").iterdir() if f.is_dir()):
        try:
            found.append((read_manifest(folder, verify=False)["run"]["finished_at"], folder))
        except IntegrityError as error:
            skipped.append(str(error))
    return [folder for _moment, folder in sorted(found)]


def _stored(new: Path, skipped: list[str], put: Callable[[Connection], object]) -> bool:
    """Store one run or edit in a transaction of its own; False, with the reason noted, where that failed."""
    try:
        with connect_writer(new) as connection:
            put(connection)
    except IntegrityError as error:
        skipped.append(str(error))
        return False
    return True


def _swap(path: Path, new: Path) -> Path | None:
    """Move the old database and its log to `backups/`, and the new one in its place."""
    kept: Path | None = None
    if database_file(path).exists() or wal(path).exists():
        folder = path / "backups"
        folder.mkdir(exist_ok=True)
        kept = folder / backup.backup_name(folder, "replaced")
        # The database first: interrupted here, a log without a database is refused, the other way it would be missed.
        for file, target in ((database_file(path), kept), (wal(path), kept.with_name(f"{kept.name}.wal"))):
            if file.exists():
                file.replace(target)
    new.replace(database_file(path))
    return kept
