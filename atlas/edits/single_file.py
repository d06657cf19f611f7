"""An edit as one file to hand on: a safetensors file with the deltas, and everything else in its header."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from atlas.edits.edit import Edit, Intervention, is_number
from atlas.edits.files import NO_EDIT, as_json, digest, from_json
from atlas.errors import IntegrityError, UsageError
from atlas.neurons import LANGUAGE
from atlas.query.provenance import Provenance
from atlas.store.atomic import write_atomically
from atlas.store.duckdb_errors import unwritable
from atlas.store.names import check_name

FORMAT = "neuron-atlas edit 1"


def write_bundle(edit: Edit, file: Path) -> None:
    """Write an edit to a file that `read_bundle` reads, whole or not at all.

    Raises:
        UsageError: the file is there already.
    """
    if file.exists():
        raise UsageError(f"{file} is there already; choose another name or remove it")
    edit = replace(edit, provenance=without_folders(edit.provenance))
    deltas = edit.intervention.deltas
    tensors = {"deltas": np.zeros((0, 0), np.float32) if deltas is None else np.ascontiguousarray(deltas, np.float32)}
    payload = as_json(edit) | {"format": FORMAT, "sum": _sum(edit)}
    try:
        write_atomically(file, lambda temporary: save_file(tensors, temporary, metadata={"edit": json.dumps(payload)}))
    except OSError as error:
        raise unwritable(file, error) from error


def without_folders(provenance: Provenance) -> Provenance:
    """The provenance without the folders of this machine that hold datasets and pictures."""
    clean = provenance.copy()
    if "dataset" in clean:
        clean["dataset"] = clean["dataset"].partition(":")[0]
    if "asked" in clean:
        pictures = [Path(p).name if Path(p).is_absolute() else p for p in clean["asked"]["pictures"]]
        clean["asked"] = {**clean["asked"], "pictures": pictures}
    if "of" in clean:
        clean["of"] = without_folders(clean["of"])
    if "left" in clean:
        clean["left"] = without_folders(clean["left"])
    if "right" in clean:
        clean["right"] = without_folders(clean["right"])
    if "parts" in clean:
        clean["parts"] = [without_folders(part) for part in clean["parts"]]
    return clean


def read_bundle(file: Path) -> Edit:
    """Read an edit that someone handed on, and check that it is what its sums say and fits its own model.

    Raises:
        UsageError: no such file, or not an edit's, or of another form.
        IntegrityError: damaged, or impossible numbers.
    """
    if not file.is_file():
        raise UsageError(f"there is no file {file}; `atlas edit export NAME FILE` writes one")
    try:
        with safe_open(file, "numpy") as handle:
            payload = json.loads((handle.metadata() or {}).get("edit", "{}"))
            tensor = handle.get_tensor("deltas") if "deltas" in handle.keys() else None  # noqa: SIM118
    except (SafetensorError, OSError, TypeError, ValueError, RecursionError) as error:
        raise IntegrityError(f"{file} is damaged, or no safetensors file ({error})") from error
    if not isinstance(payload, dict) or payload.pop("format", None) != FORMAT:
        raise UsageError(f"{file} is not an edit of the form '{FORMAT}'; `atlas edit export NAME FILE` writes one")
    try:
        expected_sum = payload.pop("sum")
        deltas = None if tensor is None or not tensor.size else tensor.astype(np.float32)
        edit = from_json(payload, deltas)
        if _sum(edit) != expected_sum:
            raise ValueError("its content is not what its sum says")
        check_name(edit.name)
        require_fits(edit.intervention, edit.model)
        return replace(edit, provenance={**edit.provenance, "imported": edit.label})
    except NO_EDIT as error:
        raise IntegrityError(f"{file} is damaged ({error}); ask for it again") from error


def _sum(edit: Edit) -> str:
    """64 hex digits of everything in a bundle."""
    text = json.dumps([as_json(edit), digest(edit.intervention)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def require_fits(intervention: Intervention, model: Mapping[str, Any]) -> None:
    """Raise ValueError where an intervention cannot be one of its model."""
    for change in intervention.changes:
        neuron = change.neuron
        fits = 0 <= neuron.layer < model["layers"] and 0 <= neuron.index < model["width"]
        if neuron.component != LANGUAGE or not fits:
            raise ValueError(f"its model has no neuron {neuron}")
        if not all(map(is_number, (change.gain, change.bias, change.noise))) or change.noise < 0:
            raise ValueError(f"neuron {neuron} is changed by no number")
    deltas = intervention.deltas
    if deltas is not None and (deltas.shape[1:] != (model["d_model"],) or not np.isfinite(deltas).all()):
        raise ValueError("its deltas are of another width, or not finite")
