"""What a bundle brings, stored in an atlas: what is there already is left, what differs never replaces it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from atlas import edit_files, schema, selections
from atlas.bundle_read import Unpacked, unpack
from atlas.database import database, require_current, revision
from atlas.edits import Edit
from atlas.errors import IntegrityError, UsageError
from atlas.failures import unwritable
from atlas.files import finish
from atlas.manifest import NAME as MANIFEST
from atlas.manifest import folder_of, read_manifest
from atlas.portable import portable, portable_manifest, portable_model

PATIENCE = 60.0
"""Seconds to wait for others who have the database open."""

STORED, THERE, RENAMED, REFUSED = "stored", "there already", "renamed", "refused"


@dataclass(frozen=True, slots=True)
class Came:
    """What became of one thing. kind: run, edit or selection. outcome: stored, there already, renamed (`note` says from
    what), or refused (`note` says why)."""

    kind: str
    name: str
    outcome: str
    note: str = ""


def import_bundle(bundle: Path, path: Path) -> list[Came]:
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
    from atlas import store
    from atlas.workshop import workshop

    _require_usable(path)
    made = not path.exists()
    try:
        path.mkdir(parents=True, exist_ok=True)
        with workshop(path, ".import") as folder:
            place = folder / "atlas"
            place.mkdir()
            unpacked = unpack(bundle, place)
            store.init(path)
            return [*_runs(path, unpacked), *_edits(path, unpacked), *_selections(path, unpacked)]
    except OSError as error:
        if Path(str(error.filename)).is_relative_to(bundle):
            raise UsageError(f"cannot read {error.filename} ({error.strerror})") from error
        raise unwritable(path, error) from error
    finally:
        if made and path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def _require_usable(path: Path) -> None:
    """Refuse, before all the work, an atlas that this program could not write; one that is just being made is none."""
    from atlas import store

    file = database(path)
    if file.exists() and file.stat().st_size:
        with store.connect_any_version(path, read_only=True) as connection:
            if revision(store.raw(connection)) is not None:
                require_current(store.raw(connection), path)
    elif any((path / "runs").glob("*/manifest.json")):
        store.init(path)  # says what to type


@contextmanager
def _writing(path: Path) -> Iterator[Connection]:
    from atlas.store import connect_writer

    with connect_writer(path, wait=PATIENCE) as connection:
        yield connection


def _runs(path: Path, unpacked: Unpacked) -> Iterator[Came]:
    with _writing(path) as connection:
        query = sa.select(schema.runs.c.run_id).where(schema.runs.c.status == "done")
        done = set(connection.execute(query).scalars())
        strange = _other_edits(connection, path, unpacked)
    for run, manifest in unpacked.manifests.items():
        ours, problem = _ours(path, run)
        same = ours is not None and portable_manifest(ours) == portable_manifest(manifest)
        if problem or (ours is not None and not same):
            note = problem or "it is here with other content, which stays (`atlas runs rm` makes room)"
            yield Came("run", run, REFUSED, note)
        elif run in strange:
            yield Came("run", run, REFUSED, f"its effects are of {strange[run]}, which is another edit here")
        elif same and run in done:
            yield Came("run", run, THERE)
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


def _store_run(path: Path, unpacked: Unpacked, run: str, *, moved: bool) -> Came:
    """Move a run's folder into place and load it. Whatever goes wrong, the folder goes back and no row stays."""
    from atlas.load import load_run
    from atlas.remove import _require_idle

    folder, theirs, aside = folder_of(path, run), folder_of(unpacked.folder, run), unpacked.folder / f"{run}.old"
    try:
        with _writing(path) as connection:
            _require_known(connection, unpacked.manifests[run])
            if moved:
                _require_idle(folder)
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
            return Came("run", run, REFUSED, str(error))
        raise
    return Came("run", run, STORED)


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


def _content(edit: Edit) -> str:
    """All of an edit but its number, paths, and what an import noted."""
    said = edit_files.as_json(edit) | {"digest": edit_files.digest(edit.intervention)}
    said["model"] = portable_model(said["model"])
    said["provenance"] = {k: v for k, v in said["provenance"].items() if k != "imported"}
    return json.dumps(portable({k: v for k, v in said.items() if k != "version"}), sort_keys=True)


def _edits(path: Path, unpacked: Unpacked) -> Iterator[Came]:
    """All edits in one transaction: their files first, as everywhere."""
    from atlas.rebuild import load_edit

    if not unpacked.edits:
        return
    came: list[Came] = []
    with _writing(path) as connection:
        rows = sa.select(schema.edits.c.name, schema.edits.c.version)
        stored = {f"{name}@{version}" for name, version in connection.execute(rows)}
        for label, edit in unpacked.edits.items():
            ours = {f.stem: f for f in (path / "edits").glob(f"{edit.name}@*.json")}
            same = [name for name, file in ours.items() if _content(edit_files.read_edit(file)) == _content(edit)]
            target = same[0] if same else label if label not in ours | _effects(connection, edit) else ""
            if same and target in stored:
                came.append(Came("edit", target, THERE, "" if target == label else f"it came as {label}"))
                continue
            if not target:
                others = [name for name in unpacked.edits if name.startswith(f"{edit.name}@")]
                numbers = [int(n.rpartition("@")[2]) for n in (*ours, *others, *_labels(connection, edit.name))]
                edit = replace(edit, version=max(numbers) + 1, provenance={**edit.provenance, "imported": label})
                target = edit.label
            if not same:
                _put_edit(path, unpacked, label, edit)
            file = path / "edits" / f"{target}.json"
            load_edit(connection, *edit_files.read_stored(file))
            note = "" if target == label else f"{label} is another edit here"
            came.append(Came("edit", target, RENAMED if note else STORED, note))
    yield from came


def _labels(connection: Connection, name: str) -> list[str]:
    query = sa.select(schema.effects.c.edit).where(schema.effects.c.edit.startswith(f"{name}@", autoescape=True))
    return [str(label) for label in connection.execute(query.distinct()).scalars()]


def _effects(connection: Connection, edit: Edit) -> dict[str, None]:
    """Labels of this name under which the effects of another edit are stored: they are not given again."""
    query = sa.text("SELECT DISTINCT edit, job FROM effects JOIN runs USING (run_id) WHERE starts_with(edit, :name)")
    digest = edit_files.digest(edit.intervention)
    found = connection.execute(query, {"name": f"{edit.name}@"}).all()
    return {str(label): None for label, job in found if json.loads(job).get("intervention", digest) != digest}


def _put_edit(path: Path, unpacked: Unpacked, label: str, edit: Edit) -> None:
    """Write an edit's files: those of the bundle to the byte, where it keeps its name."""
    if edit.label != label:
        edit_files.write_edit(path, edit)
        return
    source = unpacked.folder / "edits" / f"{label}.json"
    for name in edit_files.tensors_of(source):
        _copied(source.with_name(f"{name}.safetensors"), path / "edits" / f"{name}.safetensors")
    _copied(source, path / "edits" / source.name)


def _copied(source: Path, target: Path) -> None:
    finish(target, lambda temporary: temporary.write_bytes(source.read_bytes()))


def _selections(path: Path, unpacked: Unpacked) -> Iterator[Came]:
    for name in unpacked.listing.selections:
        said = json.loads(selections.file_of(unpacked.folder, name).read_text(encoding="utf-8"))
        yield _put_selection(path, name, said)


def _same_selection(found: Mapping[str, Any], said: Mapping[str, Any]) -> bool:
    plain = [
        {**s, "name": "", "provenance": {k: v for k, v in s["provenance"].items() if k != "imported"}}
        for s in (found, said)
    ]
    return bool(portable(plain[0]) == portable(plain[1]))


def _put_selection(path: Path, name: str, said: dict[str, Any]) -> Came:
    """Save a selection under its name, or the first of `<name>-2`, `<name>-3`, ... that is free or has it already."""
    taken, number = name, 1
    while (file := selections.file_of(path, taken)).exists():
        if _same_selection(json.loads(file.read_text(encoding="utf-8")), said):
            return Came("selection", taken, THERE, "" if taken == name else f"it came as {name}")
        number += 1
        taken = f"{name[:60]}-{number}"
    if taken != name:
        said = {**said, "name": taken, "provenance": {**said["provenance"], "imported": name}}
    text = json.dumps(said, indent=1, ensure_ascii=False) + "\n"
    finish(file, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return Came("selection", taken, STORED if taken == name else RENAMED, "" if taken == name else f"{name} is taken")


def require_all(came: list[Came]) -> None:
    """Raise where something was refused.

    Raises:
        IntegrityError: with how much.
    """
    refused = [c for c in came if c.outcome == REFUSED]
    if refused:
        what = "1 run of the bundle was" if len(refused) == 1 else f"{len(refused)} runs of the bundle were"
        raise IntegrityError(f"{what} refused ({refused[0].name[:8]}: {refused[0].note}); all else is stored")
