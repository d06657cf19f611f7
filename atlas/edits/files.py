"""Edits as files: `edits/<name>@<version>.json` and, where there are deltas, `edits/<sha256>.safetensors`.

The tensors are written first and named by their content; the JSON file names them and is the commit marker.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from operator import index
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save

from atlas.edits.edit import Change, Edit, Intervention
from atlas.edits.positions import Positions
from atlas.errors import IntegrityError, UsageError
from atlas.neurons import TAPS, Neuron
from atlas.store.atomic import sha256, write_atomically

HEAD = ("name", "version", "model", "concept", "provenance", "created_at", "note")
NO_EDIT = (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError, UsageError)
"""What `from_json` raises."""

COLUMNS = ("component", "layer", "neuron", "gain", "bias", "noise", "where", "write")


def file_of(atlas: Path, name: str, version: int) -> Path:
    return atlas / "edits" / f"{name}@{version}.json"


def write_edit(atlas: Path, edit: Edit) -> Path:
    """Write the edit's files, whole or not at all, and return the JSON file."""
    file = file_of(atlas, edit.name, edit.version)
    tensors = None
    if edit.intervention.deltas is not None:
        content = save({"deltas": np.ascontiguousarray(edit.intervention.deltas, dtype=np.float32)})
        tensors = hashlib.sha256(content).hexdigest()
        write_atomically(file.with_name(f"{tensors}.safetensors"), lambda temporary: temporary.write_bytes(content))
    text = json.dumps({**as_json(edit), "tensors": tensors}, indent=1, ensure_ascii=False)
    write_atomically(file, lambda temporary: temporary.write_text(text + "\n", encoding="utf-8"))
    return file


def _columns(changes: Sequence[Change]) -> dict[str, Any]:
    """The changes column by column; a column that is the same everywhere is written once."""
    numbered = ((c, c.neuron) for c in changes)
    rows = [  # 0 and 0.0 are one number, and have one digest
        (n.component, n.layer, n.index, float(c.gain), float(c.bias), float(c.noise), str(c.where), c.write)
        for c, n in numbered
    ]
    columns: dict[str, list[Any]] = {name: list(v) for name, v in zip(COLUMNS, zip(*rows, strict=True), strict=True)}
    return {name: values[0] if len(set(values)) == 1 else values for name, values in columns.items()}


def digest(intervention: Intervention) -> str:
    """64 hex digits of all that decides what an intervention does."""
    deltas = intervention.deltas
    head = [len(intervention.changes), _columns(intervention.changes), intervention.tap, intervention.seed]
    hashed = hashlib.sha256(json.dumps([*head, None if deltas is None else deltas.shape]).encode())
    if deltas is not None:
        hashed.update(np.ascontiguousarray(deltas, dtype=np.float32).data)
    return hashed.hexdigest()


def read_edit(file: Path) -> Edit:
    """Read an edit's files.

    Raises:
        UsageError: there are none.
        IntegrityError: they are damaged.
    """
    if not file.is_file():
        raise UsageError(f"the edit's file {file} is gone; create the edit again")
    try:
        payload = json.loads(file.read_text(encoding="utf-8"))
        tensors = payload.pop("tensors")
        return from_json(
            payload, None if tensors is None else _deltas(file.with_name(f"{tensors}.safetensors"), tensors)
        )
    except (SafetensorError, OSError, *NO_EDIT) as error:
        raise IntegrityError(f"the edit's file {file} is damaged ({error}); create the edit again") from error


def as_json(edit: Edit) -> dict[str, Any]:
    """All of an edit but its deltas."""
    payload = {name: getattr(edit, name) for name in HEAD} | {"tap": edit.tap, "seed": edit.intervention.seed}
    return payload | {"changes": {"count": len(edit.changes), **_columns(edit.changes)}}


def from_json(payload: dict[str, Any], deltas: np.ndarray | None) -> Edit:
    """The edit of `as_json` and its deltas.

    Raises:
        NO_EDIT: it is none.
    """
    rows = payload.pop("changes")
    intervention = Intervention(_changes(rows), payload.pop("tap"), deltas, payload.pop("seed"))
    if intervention.tap not in TAPS or not isinstance(intervention.seed, int):
        raise ValueError(f"no tap {intervention.tap}, or no seed {intervention.seed}")
    if any(c.write is not None and (deltas is None or not 0 <= c.write < len(deltas)) for c in intervention.changes):
        raise ValueError("a change points to no delta")
    return Edit(**payload, intervention=intervention)


def _deltas(file: Path, digest: str) -> np.ndarray:
    if sha256(file) != digest:
        raise ValueError(f"{file.name} has other content than its name says")
    deltas: np.ndarray = load_file(file)["deltas"]
    return deltas


def _changes(columns_by_name: Mapping[str, Any]) -> tuple[Change, ...]:
    count = columns_by_name["count"]
    lengths = {len(columns_by_name[name]) for name in COLUMNS if isinstance(columns_by_name[name], list)}
    if type(count) is not int or lengths - {count} or (not lengths and count > 1000):  # a count alone may be any
        raise ValueError(f"it has {sorted(lengths)} changes and says {count}")
    columns = [v if isinstance(v, list) else [v] * count for v in (columns_by_name[name] for name in COLUMNS)]
    wheres = {text: Positions.parse(text) for text in set(columns[6])}
    changes = tuple(
        Change(Neuron(component, *map(index, at)), float(gain), float(bias), float(noise), wheres[where], write)
        for component, *at, gain, bias, noise, where, write in zip(*columns, strict=True)
    )
    if not all(isinstance(c.neuron.component, str) and (c.write is None or type(c.write) is int) for c in changes):
        raise ValueError("a component is not a name, or a write is not a number")
    if len(changes) != count:
        raise ValueError(f"it has {len(changes)} changes and says {count}")
    return changes


def sweep(atlas: Path) -> None:
    """Remove the tensors that no edit names; none where an edit's file cannot be read, which may name them.

    For the one process that may write the atlas: another may have written tensors and not yet what names them.
    """
    files = list((atlas / "edits").glob("*@*.json"))
    try:
        named = {json.loads(file.read_text(encoding="utf-8"))["tensors"] for file in files}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return
    for file in (atlas / "edits").glob("*.safetensors"):
        if file.stem not in named and "@" not in file.stem:
            file.unlink()


def tensors_of(file: Path, *, verify: bool = False) -> set[str]:
    """The names (sha256) of the tensors that an edit's file names; none for a damaged one.

    Raises:
        IntegrityError: with `verify`, they are missing or damaged.
    """
    try:
        named = json.loads(file.read_text(encoding="utf-8"))["tensors"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return set()
    if named is not None and verify:
        tensors = file.with_name(f"{named}.safetensors")
        if not tensors.is_file() or sha256(tensors) != named:
            raise IntegrityError(f"its deltas {tensors} are missing or damaged; create the edit again")
    return set() if named is None else {str(named)}


def edit_row(edit: Edit, file: Path) -> dict[str, Any]:
    """The edit as `atlas.maintain.rebuild.load_edit` takes it."""
    return {
        "name": edit.name,
        "version": edit.version,
        "model": dict(edit.model),
        "fingerprint": edit.fingerprint,
        "tap": edit.tap,
        "concept": edit.concept,
        "provenance": json.dumps(edit.provenance, sort_keys=True),
        "sha256": sha256(file),
        "created_at": edit.created_at,
        "solver": edit.solver,
        "note": edit.note,
    }


def changes_table(edit: Edit) -> pa.Table:
    """The columns of `changes` but `edit_id`."""
    from atlas.store.arrow_types import arrow_schema  # SQLAlchemy is not loaded to read an edit
    from atlas.store.schema import changes

    schema = arrow_schema(changes)
    schema = schema.remove(schema.get_field_index("edit_id"))
    columns_by_name = _columns(edit.changes)
    count = len(edit.changes)
    columns = {name: v if isinstance(v, list) else [v] * count for name, v in columns_by_name.items()}
    return pa.Table.from_pydict({name: columns[name] for name in schema.names}, schema=schema)


def read_stored(file: Path) -> tuple[dict[str, Any], pa.Table]:
    """One file of edits/ as `atlas.maintain.rebuild.rebuild` reads it back."""
    edit = read_edit(file)
    return edit_row(edit, file), changes_table(edit)


def convert_old(atlas: Path) -> None:
    """Write edits of the form before schema 0003, one safetensors file each with the rest in its header, as JSON.

    Damaged ones stay as they are.
    """
    for old in sorted((atlas / "edits").glob("*@*.safetensors")):
        try:
            with safe_open(old, "numpy") as handle:
                payload = json.loads(handle.metadata()["edit"])
                columns = [handle.get_tensor(name).tolist() for name in ("layer", "neuron", "gain", "bias")]
            rows = zip(payload.pop("component"), *columns, strict=True)
            changes = tuple(Change(Neuron(c, layer, index), gain, bias) for c, layer, index, gain, bias in rows)
            edit = Edit(intervention=Intervention(changes, payload.pop("tap")), **payload)
        except (SafetensorError, OSError, KeyError, TypeError, ValueError):
            continue
        write_edit(atlas, edit)
        old.unlink()
