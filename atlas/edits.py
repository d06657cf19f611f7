"""An edit is data: what becomes of some neurons' values in one model, and where the choice came from.

Every change is affine, x <- gain * x + bias, on the neuron's value at the edit's tap. An edit is one file,
`edits/<name>@<version>.safetensors`, whose tensors are the changes and whose header is the rest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from atlas.errors import IntegrityError, UsageError
from atlas.files import finish, sha256
from atlas.neurons import Neuron

ALL_TOKENS = "all"


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of one neuron's value at every position: gain * x + bias."""

    neuron: Neuron
    gain: float = 1.0
    bias: float = 0.0


@dataclass(frozen=True, slots=True)
class Edit:
    """A named, versioned set of changes to the neurons of one model.

    model: the columns of `models` without the id, `fingerprint` among them: other weights are refused.
    concept: what it is about, where that is one concept. provenance: the question that chose the neurons.
    """

    name: str
    version: int
    model: Mapping[str, Any]
    tap: str
    concept: str | None
    provenance: Mapping[str, Any]
    changes: tuple[Change, ...]
    created_at: str

    @property
    def label(self) -> str:
        return f"{self.name}@{self.version}"

    @property
    def fingerprint(self) -> str:
        return str(self.model["fingerprint"])

    @property
    def neurons(self) -> tuple[Neuron, ...]:
        return tuple(c.neuron for c in self.changes)


def check_name(name: str) -> None:
    """Raises UsageError where a name could not be a file's, or would read as a version or a path."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise UsageError(f"'{name}' cannot name an edit; use letters, digits, '.', '_' and '-', for example no-dog")


def split_label(label: str) -> tuple[str, int | None]:
    """`no-dog@2` -> ("no-dog", 2); `no-dog` -> ("no-dog", None), the newest."""
    name, at, version = label.partition("@")
    if at and not version.isdigit():
        raise UsageError(f"'{label}' is not an edit; write a name, or name@version, for example no-dog@1")
    return name, int(version) if at else None


def file_of(atlas: Path, name: str, version: int) -> Path:
    return atlas / "edits" / f"{name}@{version}.safetensors"


def write_edit(atlas: Path, edit: Edit) -> Path:
    """Write the edit's file, whole or not at all, and return it."""
    file = file_of(atlas, edit.name, edit.version)
    head = {k: getattr(edit, k) for k in ("name", "version", "model", "tap", "concept", "provenance", "created_at")}
    tensors: dict[str, np.ndarray] = {
        "layer": np.array([c.neuron.layer for c in edit.changes], dtype=np.int16),
        "neuron": np.array([c.neuron.index for c in edit.changes], dtype=np.int32),
        "gain": np.array([c.gain for c in edit.changes], dtype=np.float32),
        "bias": np.array([c.bias for c in edit.changes], dtype=np.float32),
    }
    head["component"] = [c.neuron.component for c in edit.changes]
    metadata = {"edit": json.dumps(head, sort_keys=True)}
    finish(file, lambda temporary: save_file(tensors, temporary, metadata=metadata))
    return file


def read_edit(file: Path) -> Edit:
    """Read an edit's file.

    Raises:
        UsageError: there is none.
        IntegrityError: it is damaged.
    """
    if not file.is_file():
        raise UsageError(f"the edit's file {file} is gone; create the edit again")
    try:
        with safe_open(file, "numpy") as handle:
            head = json.loads(handle.metadata()["edit"])
            columns = [handle.get_tensor(name).tolist() for name in ("layer", "neuron", "gain", "bias")]
        found = tuple(
            Change(Neuron(component, layer, index), gain, bias)
            for component, layer, index, gain, bias in zip(head.pop("component"), *columns, strict=True)
        )
        return Edit(**head, changes=found)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise IntegrityError(f"the edit's file {file} is damaged ({error}); create the edit again") from error


def edit_row(edit: Edit, file: Path) -> dict[str, Any]:
    """The edit as `atlas.rebuild.load_edit` takes it."""
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
    }


def changes_table(edit: Edit) -> pa.Table:
    """The columns of `changes` but `edit_id`."""
    from atlas.schema import arrow_schema, changes  # SQLAlchemy is not loaded to read an edit

    rows = [
        {
            "component": c.neuron.component,
            "layer": c.neuron.layer,
            "neuron": c.neuron.index,
            "gain": c.gain,
            "bias": c.bias,
            "where": ALL_TOKENS,
            "write": None,
        }
        for c in edit.changes
    ]
    schema = arrow_schema(changes)
    return pa.Table.from_pylist(rows, schema=schema.remove(schema.get_field_index("edit_id")))


def read_stored(file: Path) -> tuple[dict[str, Any], pa.Table]:
    """One file of edits/ as `atlas.rebuild.rebuild` reads it back."""
    edit = read_edit(file)
    return edit_row(edit, file), changes_table(edit)


def make_changes(
    neurons: Sequence[Neuron],
    *,
    set_to: float | None = None,
    scale: float | None = None,
    shift: float | None = None,
    means: Mapping[Neuron, float] | None = None,
) -> tuple[Change, ...]:
    """The same change for every neuron, or each its own mean. Exactly one of the four must be given.

    Raises:
        UsageError: none or several are given, no neurons, or a neuron without a mean.
    """
    given = [value is not None for value in (set_to, scale, shift, means)]
    if sum(given) != 1:
        raise UsageError("say what becomes of the neurons with exactly one of --set, --scale, --shift and --mean")
    if not neurons:
        raise UsageError("the selection has no neurons; loosen it (--top, --select, --layers)")
    if means is not None:
        missing = [str(n) for n in neurons if n not in means]
        if missing:
            raise UsageError(f"no stored mean for neuron {missing[0]}; ingest with --methods activation first")
        return tuple(Change(n, 0.0, means[n]) for n in neurons)
    if set_to is not None:
        return tuple(Change(n, 0.0, set_to) for n in neurons)
    return tuple(Change(n, 1.0 if scale is None else scale, shift or 0.0) for n in neurons)
