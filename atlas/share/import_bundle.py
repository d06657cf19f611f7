"""What a bundle brings, stored in an atlas: what is there already is left, what differs never replaces it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from atlas.edits import files as edit_files
from atlas.errors import IntegrityError, UsageError
from atlas.share.import_edits import merge_edits, merge_selections
from atlas.share.listing import REFUSED, STORED, THERE, ImportOutcome
from atlas.share.portable import portable_manifest
from atlas.share.unpack import Unpacked, unpack
from atlas.store import schema
from atlas.store.database import database_file, require_current, revision
from atlas.store.duckdb_errors import unwritable
from atlas.store.run_manifest import NAME as MANIFEST
from atlas.store.run_manifest import folder_of, read_manifest

PATIENCE = 60.0
"""Seconds to wait for others who have the database open."""


def import_bundle(bundle: Path, path: Path) -> list[ImportOutcome]:
    """Store everything of a bundle in an atlas, which is made where there is none.

    All of the bundle is checked first, in a folder of its own; then one run after the other is stored, each in a
    transaction, and the edits. Killed at any moment, doing it again stores the rest.

    A run that is there with other content stays as it is, and is `refused`; so is one whose model, dataset or concepts
    the atlas knows otherwise, and one with effects of an edit that has this name here and is another. An edit or a
    selection whose name is taken by another comes as the next version, or as `<name>-2`.

    Raises:
        UsageError: no bundle there.
        StoreUnavailable: the bundle is a newer program's, or the atlas is locked or of another version.
        IntegrityError: the bundle is damaged; nothing was stored.
    """
    from atlas.store import create
    from atlas.store.scratch import scratch_folder

    _require_usable(path)
    made = not path.exists()
    try:
        path.mkdir(parents=True, exist_ok=True)
        with scratch_folder(path, ".import") as folder:
            place = folder / "atlas"
            place.mkdir()
            unpacked = unpack(bundle, place)
            create.init(path)
            came = list(_runs(path, unpacked))
            with _writing(path) as connection:
                came += merge_edits(connection, path, unpacked)
                came += merge_selections(connection, path, unpacked)
            return came
    except OSError as error:
        if Path(str(error.filename)).is_relative_to(bundle):
            raise UsageError(f"cannot read {error.filename} ({error.strerror})") from error
        raise unwritable(path, error) from error
    finally:
        if made and path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def _require_usable(path: Path) -> None:
    """Refuse, before all the work, an atlas that this program could not write; one that is just being made is none."""
    from atlas.store import create, engine

    file = database_file(path)
    if file.exists() and file.stat().st_size:
        with engine.connect_any_version(path, read_only=True) as connection:
            if revision(engine.raw(connection)) is not None:
                require_current(engine.raw(connection), path)
    elif any((path / "runs").glob("*/manifest.json")):
        create.init(path)  # says what to type


@contextmanager
def _writing(path: Path) -> Iterator[Connection]:
    from atlas.store.engine import connect_writer

    with connect_writer(path, wait=PATIENCE) as connection:
        yield connection


def _runs(path: Path, unpacked: Unpacked) -> Iterator[ImportOutcome]:
    with _writing(path) as connection:
        query = sa.select(schema.runs.c.run_id).where(schema.runs.c.status == "done")
        done = set(connection.execute(query).scalars())
        strange = _other_edits(connection, path, unpacked)
    for run, manifest in unpacked.manifests.items():
        ours, problem = _ours(path, run)
        same = ours is not None and portable_manifest(ours) == portable_manifest(manifest)
        if problem or (ours is not None and not same):
            note = problem or "it is here with other content, which stays (`atlas runs rm` makes room)"
            yield ImportOutcome("run", run, REFUSED, note)
        elif run in strange:
            yield ImportOutcome("run", run, REFUSED, f"its effects are of {strange[run]}, which is another edit here")
        elif same and run in done:
            yield ImportOutcome("run", run, THERE)
        else:
            yield _store_run(path, unpacked, run, moved=not same)


def _ours(path: Path, run: str) -> tuple[dict[str, Any] | None, str]:
    """The manifest that the atlas has of a run, or None; and why it cannot be compared."""
    folder = folder_of(path, run)
    if not (folder / MANIFEST).is_file():
        return None, ""
    try:
        return read_manifest(folder, verify=False), ""
    except IntegrityError as error:
        return None, f"what is here of it is damaged ({error})"


def _store_run(path: Path, unpacked: Unpacked, run: str, *, moved: bool) -> ImportOutcome:
    """Move a run's folder into place and load it. Whatever goes wrong, the folder goes back and no row stays."""
    from atlas.maintain.remove_runs import require_idle
    from atlas.store.run_loader import load_run

    folder, theirs, aside = folder_of(path, run), folder_of(unpacked.folder, run), unpacked.folder / f"{run}.old"
    try:
        with _writing(path) as connection:
            _require_known(connection, unpacked.manifests[run])
            if moved:
                require_idle(folder)
                if folder.exists():  # what an interrupted run left; it has no manifest
                    folder.replace(aside)
                theirs.replace(folder)
            load_run(connection, folder)
    except BaseException as error:
        if moved and not theirs.exists() and folder.exists():
            folder.replace(theirs)
        if aside.exists() and not folder.exists():
            aside.replace(folder)
        if isinstance(error, IntegrityError):
            return ImportOutcome("run", run, REFUSED, str(error))
        raise
    return ImportOutcome("run", run, STORED)


def _require_known(connection: Connection, manifest: Mapping[str, Any]) -> None:
    """Refuse a model or dataset that the atlas knows by the same name, revision and weights as something else."""
    kinds = (
        ("model", schema.models, ("name", "revision", "fingerprint")),
        ("dataset", schema.datasets, ("name", "revision")),
    )
    for kind, table, key in kinds:
        row = manifest[kind]
        if row is None:
            continue
        same = sa.and_(*(table.c[name].is_not_distinct_from(row[name]) for name in key))
        found = connection.execute(sa.select(table).where(same)).mappings().first()
        differs = [n for n, v in row.items() if found and n not in ("path", "created_at") and found[n] != v]
        if differs:
            raise IntegrityError(f"its {kind} {row['name']} has another {differs[0]} here: one of the two is wrong")


def _other_edits(connection: Connection, path: Path, unpacked: Unpacked) -> dict[str, str]:
    """Runs of the bundle whose effects are of an edit that is another one here -> the edit's label."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    known: dict[str, set[str]] = {}
    query = "SELECT DISTINCT edit, job::JSON ->> '$.intervention' FROM effects JOIN runs USING (run_id)"
    for label, digest in connection.exec_driver_sql(query):
        if digest:
            known.setdefault(label, set()).add(digest)
    found = {}
    for run, manifest in unpacked.manifests.items():
        theirs = manifest["run"]["job"].get("intervention")
        if not theirs or "effects.parquet" not in manifest["files"]:
            continue
        file = folder_of(unpacked.folder, run) / "effects.parquet"
        for label in pc.unique(pq.read_table(file, columns=["edit"])["edit"]).to_pylist():
            ours = known.get(label, set()) | _digest_of(path / "edits" / f"{label}.json")
            if ours and theirs not in ours:
                found[run] = label
    return found


def _digest_of(file: Path) -> set[str]:
    return {edit_files.digest(edit_files.read_edit(file).intervention)} if file.is_file() else set()


def require_all(came: list[ImportOutcome]) -> None:
    """Raise where something was refused.

    Raises:
        IntegrityError: with how much.
    """
    refused = [c for c in came if c.outcome == REFUSED]
    if refused:
        what = "1 run of the bundle was" if len(refused) == 1 else f"{len(refused)} runs of the bundle were"
        raise IntegrityError(f"{what} refused ({refused[0].name[:8]}: {refused[0].note}); all else is stored")
