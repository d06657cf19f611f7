"""A bundle's contents, stored in an atlas: what the atlas already has is never replaced."""

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
from atlas.share.listing import ALREADY_STORED, REFUSED, STORED, ImportOutcome
from atlas.share.portable import portable_manifest
from atlas.share.unpack import Unpacked, unpack
from atlas.store import schema
from atlas.store.database import database_file, require_current, revision
from atlas.store.duckdb_errors import unwritable
from atlas.store.run_manifest import NAME as MANIFEST
from atlas.store.run_manifest import folder_of, read_manifest

PATIENCE = 60.0
"""Seconds to wait for other processes that have the database open."""


def import_bundle(bundle: Path, path: Path) -> list[ImportOutcome]:
    """Store everything of a bundle in an atlas, which is created if needed.

    All of the bundle is checked first, in a separate folder; then the runs are stored one after another, each in a
    transaction, and the edits. If it is killed at any moment, doing it again stores the rest.

    A run that the atlas has with other content is kept and the bundle's is `refused`; so is one whose model, dataset or
    concepts differ from those that the atlas has under the same names, and one with effects of an edit whose name
    another edit has here. An edit or a selection whose name another one has is stored as the next version, or as
    `<name>-2`.

    Raises:
        UsageError: no bundle there.
        StoreUnavailable: a newer program wrote the bundle, or the atlas is locked or of another version.
        IntegrityError: the bundle is damaged; nothing was stored.
    """
    from atlas.store import create
    from atlas.store.scratch import scratch_folder

    _require_usable(path)
    is_new = not path.exists()
    try:
        path.mkdir(parents=True, exist_ok=True)
        with scratch_folder(path, ".import") as folder:
            place = folder / "atlas"
            place.mkdir()
            unpacked = unpack(bundle, place)
            create.init(path)
            outcomes = list(_runs(path, unpacked))
            with _writing(path) as connection:
                outcomes += merge_edits(connection, path, unpacked)
                outcomes += merge_selections(connection, path, unpacked)
            return outcomes
    except OSError as error:
        if Path(str(error.filename)).is_relative_to(bundle):
            raise UsageError(f"cannot read {error.filename} ({error.strerror})") from error
        raise unwritable(path, error) from error
    finally:
        if is_new and path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def _require_usable(path: Path) -> None:
    """Refuse, before any work, an atlas that this program could not write; a missing one will be created."""
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
        other_edits = _other_edits(connection, path, unpacked)
    for run, manifest in unpacked.manifests.items():
        stored, problem = _stored_manifest(path, run)
        same = stored is not None and portable_manifest(stored) == portable_manifest(manifest)
        if problem or (stored is not None and not same):
            note = problem or "the atlas has it with other content, which is kept (`atlas runs rm` removes it)"
            yield ImportOutcome("run", run, REFUSED, note)
        elif run in other_edits:
            yield ImportOutcome(
                "run", run, REFUSED, f"its effects are of {other_edits[run]}, which is another edit here"
            )
        elif same and run in done:
            yield ImportOutcome("run", run, ALREADY_STORED)
        else:
            yield _store_run(path, unpacked, run, moved=not same)


def _stored_manifest(path: Path, run: str) -> tuple[dict[str, Any] | None, str]:
    """The atlas's manifest of a run, or None; and why it cannot be compared, or ""."""
    folder = folder_of(path, run)
    if not (folder / MANIFEST).is_file():
        return None, ""
    try:
        return read_manifest(folder, verify=False), ""
    except IntegrityError as error:
        return None, f"the atlas's copy is damaged ({error})"


def _store_run(path: Path, unpacked: Unpacked, run: str, *, moved: bool) -> ImportOutcome:
    """Move a run's folder into place and load it. On any error the folder is moved back and no row is stored."""
    from atlas.maintain.remove_runs import require_idle
    from atlas.store.run_loader import load_run

    folder, unpacked_run, aside = folder_of(path, run), folder_of(unpacked.folder, run), unpacked.folder / f"{run}.old"
    try:
        with _writing(path) as connection:
            _require_known(connection, unpacked.manifests[run])
            if moved:
                require_idle(folder)
                if folder.exists():  # left by an interrupted run, without a manifest
                    folder.replace(aside)
                unpacked_run.replace(folder)
            load_run(connection, folder)
    except BaseException as error:
        if moved and not unpacked_run.exists() and folder.exists():
            folder.replace(unpacked_run)
        if aside.exists() and not folder.exists():
            aside.replace(folder)
        if isinstance(error, IntegrityError):
            return ImportOutcome("run", run, REFUSED, str(error))
        raise
    return ImportOutcome("run", run, STORED)


def _require_known(connection: Connection, manifest: Mapping[str, Any]) -> None:
    """Refuse a model or dataset that differs from the atlas's of the same name, revision and weights."""
    kinds = (
        ("model", schema.models, ("name", "revision", "fingerprint")),
        ("dataset", schema.datasets, ("name", "revision")),
    )
    for kind, table, key in kinds:
        row = manifest[kind]
        if row is None:
            continue
        same = sa.and_(*(table.c[name].is_not_distinct_from(row[name]) for name in key))
        stored = connection.execute(sa.select(table).where(same)).mappings().first()
        differs = [n for n, v in row.items() if stored and n not in ("path", "created_at") and stored[n] != v]
        if differs:
            raise IntegrityError(f"its {kind} {row['name']} has another {differs[0]} here: one of the two is wrong")


def _other_edits(connection: Connection, path: Path, unpacked: Unpacked) -> dict[str, str]:
    """Runs of the bundle with effects of an edit whose name another edit has here -> the edit's label."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    known: dict[str, set[str]] = {}
    query = "SELECT DISTINCT edit, job::JSON ->> '$.intervention' FROM effects JOIN runs USING (run_id)"
    for label, digest in connection.exec_driver_sql(query):
        if digest:
            known.setdefault(label, set()).add(digest)
    labels = {}
    for run, manifest in unpacked.manifests.items():
        bundled_digest = manifest["run"]["job"].get("intervention")
        if not bundled_digest or "effects.parquet" not in manifest["files"]:
            continue
        file = folder_of(unpacked.folder, run) / "effects.parquet"
        for label in pc.unique(pq.read_table(file, columns=["edit"])["edit"]).to_pylist():
            known_digests = known.get(label, set()) | _digest_of(path / "edits" / f"{label}.json")
            if known_digests and bundled_digest not in known_digests:
                labels[run] = label
    return labels


def _digest_of(file: Path) -> set[str]:
    return {edit_files.digest(edit_files.read_edit(file).intervention)} if file.is_file() else set()


def require_all(outcomes: list[ImportOutcome]) -> None:
    """Raise where a run was refused.

    Raises:
        IntegrityError: with the number of refused runs.
    """
    refused = [c for c in outcomes if c.outcome == REFUSED]
    if refused:
        what = "1 run of the bundle was" if len(refused) == 1 else f"{len(refused)} runs of the bundle were"
        raise IntegrityError(f"{what} refused ({refused[0].name[:8]}: {refused[0].note}); everything else is stored")
