"""Edits and selections of a bundle, stored beside those of an atlas: none is replaced, none is stored twice."""

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
from atlas.share.listing import ALREADY_STORED, RENAMED, STORED, ImportOutcome
from atlas.share.portable import folders, portable, portable_model
from atlas.share.unpack import Unpacked
from atlas.store import schema
from atlas.store.atomic import write_atomically


def _content(edit: Edit) -> str:
    """An edit as comparable text, without its version, paths, and the import's note."""
    payload = edit_files.as_json(edit) | {"digest": edit_files.digest(edit.intervention)}
    payload["model"] = portable_model(payload["model"])
    payload["provenance"] = {k: v for k, v in payload["provenance"].items() if k != "imported"}
    plain = portable({k: v for k, v in payload.items() if k != "version"}, *folders([edit.model["name"]]))
    return json.dumps(plain, sort_keys=True)


def _stored(file: Path) -> str:
    """`_content` of a file; "" for a damaged one."""
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
        files = {f.stem: f for f in (path / "edits").glob(f"{edit.name}@*.json")}
        same = [name for name, file in files.items() if _stored(file) == _content(edit)]
        used_labels = {*files, *_effects(connection, edit)}
        target = same[0] if same else label if label not in used_labels else ""
        if same and target in stored:
            yield ImportOutcome("edit", target, ALREADY_STORED, "" if target == label else f"imported as {label}")
            continue
        if not target:
            others = [name for name in unpacked.edits if name.startswith(f"{edit.name}@")]
            numbers = [int(n.rpartition("@")[2]) for n in (*files, *others, *_labels(connection, edit.name))]
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
    """Labels of this name under which effects of another edit are stored, so that they must not be reused."""
    query = sa.text("SELECT DISTINCT edit, job FROM effects JOIN runs USING (run_id) WHERE starts_with(edit, :name)")
    digest = edit_files.digest(edit.intervention)
    rows = connection.execute(query, {"name": f"{edit.name}@"}).all()
    return {str(label) for label, job in rows if json.loads(job).get("intervention", digest) != digest}


def _put_edit(path: Path, unpacked: Unpacked, label: str, edit: Edit) -> None:
    """Write an edit's files: copies of the bundle's where it keeps its name."""
    if edit.label != label:
        edit_files.write_edit(path, edit)
        return
    source = unpacked.folder / "edits" / f"{label}.json"
    for name in edit_files.tensors_of(source):
        _copy_file(source.with_name(f"{name}.safetensors"), path / "edits" / f"{name}.safetensors")
    _copy_file(source, path / "edits" / source.name)


def _copy_file(source: Path, target: Path) -> None:
    write_atomically(target, lambda temporary: temporary.write_bytes(source.read_bytes()))


def merge_selections(connection: Connection, path: Path, unpacked: Unpacked) -> Iterator[ImportOutcome]:
    """Store the selections of a bundle; the caller holds the writer's lock."""
    known = folders(connection.execute(sa.select(schema.models.c.name)).scalars())
    for name in unpacked.listing.selections:
        payload = json.loads(saved.file_of(unpacked.folder, name).read_text(encoding="utf-8"))
        yield _put_selection(path, name, payload, known)


def _comparable(payload: Mapping[str, Any], known: Iterable[str]) -> Any:
    provenance = {k: v for k, v in payload["provenance"].items() if k != "imported"}
    return portable({**payload, "name": "", "provenance": provenance}, *known)


def _has_selection(file: Path, payload: Mapping[str, Any], known: Iterable[str]) -> bool:
    """Whether a file has this selection; False for a damaged file."""
    try:
        saved.read(file)
    except IntegrityError:
        return False
    return bool(_comparable(json.loads(file.read_text(encoding="utf-8")), known) == _comparable(payload, known))


def _put_selection(path: Path, name: str, payload: dict[str, Any], known: Iterable[str]) -> ImportOutcome:
    """Save a selection under its name, or the first of `<name>-2`, `<name>-3`, ... that is free or already has it."""
    free_name, number = name, 1
    while (file := saved.file_of(path, free_name)).exists():
        if _has_selection(file, payload, known):
            return ImportOutcome(
                "selection", free_name, ALREADY_STORED, "" if free_name == name else f"imported as {name}"
            )
        number += 1
        free_name = f"{name[:60]}-{number}"
    if free_name != name:
        payload = {**payload, "name": free_name, "provenance": {**payload["provenance"], "imported": name}}
    text = json.dumps(payload, indent=1, ensure_ascii=False) + "\n"
    write_atomically(file, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return ImportOutcome(
        "selection",
        free_name,
        STORED if free_name == name else RENAMED,
        "" if free_name == name else f"{name} is taken",
    )
