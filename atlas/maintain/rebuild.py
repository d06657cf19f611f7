"""Rebuild the database from runs/ and edits/."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sqlalchemy import Connection

from atlas.edits.files import convert_old, read_stored, sweep
from atlas.edits.rows import load_edit
from atlas.errors import IntegrityError, StoreUnavailable
from atlas.store import backup, create
from atlas.store.database import VERSION, database_file, revision, wal
from atlas.store.duckdb_errors import full
from atlas.store.engine import connect_any_version, connect_writer, raw
from atlas.store.run_loader import load_run
from atlas.store.run_manifest import read_manifest
from atlas.store.scratch import scratch_folder


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """The result of a rebuild: the numbers of stored runs and edits, where the old database was moved (None without
    one), and the reasons for what was left out."""

    runs: int
    edits: int
    old: Path | None
    skipped: tuple[str, ...]


def rebuild(path: Path) -> Rebuilt:
    """Build a new database from every complete run folder and every edit; the old one is moved to `backups/`.

    A folder that is damaged or was never finished is left out and reported. The ledger's rows of interrupted and failed
    runs exist only in the database and are lost.

    Raises:
        StoreUnavailable: there is no runs/, the database is in use or newer than this program, or the folder is
            read-only.
    """
    if not (path / "runs").is_dir():
        raise StoreUnavailable(f"there is no atlas at {path}: it has no folder runs/; give another folder as [[atlas]]")
    _require_free(path)
    with scratch_folder(path, "rebuild") as folder:
        create.create(folder)
        convert_old(path)
        skipped: list[str] = []
        loaded = [
            _try_to_store(folder, skipped, partial(load_run, folder=run)) for run in _finished_runs(path, skipped)
        ]
        edited = [
            _try_to_store(folder, skipped, partial(_load_edit_file, file=file))
            for file in sorted((path / "edits").glob("*@*.json"))
        ]
        if wal(folder).exists():  # a full disk kept it out of the file, and only the file is moved
            raise full(path)
        old = _swap(path, database_file(folder))
    return Rebuilt(runs=sum(loaded), edits=sum(edited), old=old, skipped=tuple(skipped))


def _load_edit_file(connection: Connection, *, file: Path) -> None:
    load_edit(connection, *read_stored(file))


def _require_free(path: Path) -> None:
    """Refuse a database that another process has open, or that is newer; a damaged one is accepted.

    While no other process can write, tensors that no edit uses are removed.
    """
    if not database_file(path).exists():
        return
    try:
        with connect_any_version(path, read_only=False) as connection:
            schema_revision = revision(raw(connection))
            if schema_revision is None or schema_revision <= VERSION:
                sweep(path)  # another writer may have stored tensors before their edit
    except IntegrityError:
        return
    if schema_revision is not None and schema_revision > VERSION:
        raise StoreUnavailable(
            f"the atlas at {path} has schema {schema_revision}, newer than {VERSION}; "
            "`pip install --upgrade neuron-atlas`"
        )


def _finished_runs(path: Path, skipped: list[str]) -> list[Path]:
    """The run folders that have a manifest, in the order in which the runs finished."""
    dated: list[tuple[str, Path]] = []
    for folder in sorted(f for f in (path / "runs").iterdir() if f.is_dir()):
        try:
            dated.append((read_manifest(folder, verify=False)["run"]["finished_at"], folder))
        except IntegrityError as error:
            skipped.append(str(error))
    return [folder for _moment, folder in sorted(dated)]


def _try_to_store(new: Path, skipped: list[str], put: Callable[[Connection], object]) -> bool:
    """Store one run or edit in its own transaction; False, with the reason added to `skipped`, where that failed."""
    try:
        with connect_writer(new) as connection:
            put(connection)
    except IntegrityError as error:
        skipped.append(str(error))
        return False
    return True


def _swap(path: Path, new: Path) -> Path | None:
    """Move the old database and its log to `backups/`, and the new one into place; returns the old one's copy."""
    old_copy: Path | None = None
    if database_file(path).exists() or wal(path).exists():
        folder = path / "backups"
        folder.mkdir(exist_ok=True)
        old_copy = folder / backup.backup_name(folder, "replaced")
        # The database first: a log without a database is refused later, a lost log would go unnoticed.
        for file, target in ((database_file(path), old_copy), (wal(path), old_copy.with_name(f"{old_copy.name}.wal"))):
            if file.exists():
                file.replace(target)
    new.replace(database_file(path))
    return old_copy
