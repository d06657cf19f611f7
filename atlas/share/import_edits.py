"""Edits and selections of a bundle, stored beside those that an atlas has: none is replaced, none comes twice."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from atlas.edits import files as edit_files
from atlas.edits.edit import Edit
from atlas.errors import IntegrityError
from atlas.query import saved
from atlas.share.listing import RENAMED, STORED, THERE, ImportOutcome
from atlas.share.portable import folders, portable, portable_model
from atlas.share.unpack import Unpacked
from atlas.store import schema
from atlas.store.atomic import write_atomically


def _content(edit: Edit) -> str:
    """All of an edit but its number, paths, and what an import noted."""
    said = edit_files.as_json(edit) | {"digest": edit_files.digest(edit.intervention)}
    said["model"] = portable_model(said["model"])
    said["provenance"] = {k: v for k, v in said["provenance"].items() if k != "imported"}
    plain = portable({k: v for k, v in said.items() if k != "version"}, *folders([edit.model["name"]]))
    return json.dumps(plain, sort_keys=True)


def _stored(file: Path) -> str:
    """The same of a file; a damaged one has no content."""
    try:
        return _content(edit_files.read_edit(file))
    except IntegrityError:
        return ""


def merge_edits(connection: Connection, path: Path, unpacked: Unpacked) -> Iterator[ImportOutcome]:
    """Store the edits of a bundle, their files first, as everywhere; the caller holds the writer's lock."""
    from atlas.edits.rows import load_edit

    rows = sa.select(schema.edits.c.name, schema.edits.c.version)
    stored = {f"{name}@{version}" for name, version in connection.execute(rows)}
    for label, edit in unpacked.edits.items():
        ours = {f.stem: f for f in (path / "edits").glob(f"{edit.name}@*.json")}
        same = [name for name, file in ours.items() if _stored(file) == _content(edit)]
        taken = {*ours, *_effects(connection, edit)}
        target = same[0] if same else label if label not in taken else ""
        if same and target in stored:
            yield ImportOutcome("edit", target, THERE, "" if target == label else f"it came as {label}")
            continue
        if not target:
            others = [name for name in unpacked.edits if name.startswith(f"{edit.name}@")]
            numbers = [int(n.rpartition("@")[2]) for n in (*ours, *others, *_labels(connection, edit.name))]
            edit = replace(edit, version=max(numbers) + 1, provenance={**edit.provenance, "imported": label})
            target = edit.label
        if not same:
            _put_edit(path, unpacked, label, edit)
        load_edit(connection, *edit_files.read_stored(path / "edits" / f"{target}.json"))
        note = "" if target == label else f"{label} is another edit here"
        yield ImportOutcome("edit", target, RENAMED if note else STORED, note)


def _labels(connection: Connection, name: str) -> list[str]:
    query = sa.select(schema.effects.c.edit).where(schema.effects.c.edit.startswith(f"{name}@", autoescape=True))
    return [str(label) for label in connection.execute(query.distinct()).scalars()]


def _effects(connection: Connection, edit: Edit) -> set[str]:
    """Labels of this name under which the effects of another edit are stored: they are not given again."""
    query = sa.text("SELECT DISTINCT edit, job FROM effects JOIN runs USING (run_id) WHERE starts_with(edit, :name)")
    digest = edit_files.digest(edit.intervention)
    found = connection.execute(query, {"name": f"{edit.name}@"}).all()
    return {str(label) for label, job in found if json.loads(job).get("intervention", digest) != digest}


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
    write_atomically(target, lambda temporary: temporary.write_bytes(source.read_bytes()))


def merge_selections(connection: Connection, path: Path, unpacked: Unpacked) -> Iterator[ImportOutcome]:
    """Store the selections of a bundle; the caller holds the writer's lock."""
    known = folders(connection.execute(sa.select(schema.models.c.name)).scalars())
    for name in unpacked.listing.selections:
        said = json.loads(saved.file_of(unpacked.folder, name).read_text(encoding="utf-8"))
        yield _put_selection(path, name, said, known)


def _plain(said: Mapping[str, Any], known: Iterable[str]) -> Any:
    provenance = {k: v for k, v in said["provenance"].items() if k != "imported"}
    return portable({**said, "name": "", "provenance": provenance}, *known)


def _is_there(file: Path, said: Mapping[str, Any], known: Iterable[str]) -> bool:
    """Whether a file has this selection; a damaged one has none."""
    try:
        saved.read(file)
    except IntegrityError:
        return False
    return bool(_plain(json.loads(file.read_text(encoding="utf-8")), known) == _plain(said, known))


def _put_selection(path: Path, name: str, said: dict[str, Any], known: Iterable[str]) -> ImportOutcome:
    """Save a selection under its name, or the first of `<name>-2`, `<name>-3`, ... that is free or has it already."""
    taken, number = name, 1
    while (file := saved.file_of(path, taken)).exists():
        if _is_there(file, said, known):
            return ImportOutcome("selection", taken, THERE, "" if taken == name else f"it came as {name}")
        number += 1
        taken = f"{name[:60]}-{number}"
    if taken != name:
        said = {**said, "name": taken, "provenance": {**said["provenance"], "imported": name}}
    text = json.dumps(said, indent=1, ensure_ascii=False) + "\n"
    write_atomically(file, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return ImportOutcome(
        "selection", taken, STORED if taken == name else RENAMED, "" if taken == name else f"{name} is taken"
    )
