"""An edit as one file to hand on: a safetensors file with the deltas, and everything else in its header."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from atlas.edit_files import as_json, digest, from_json
from atlas.edits import Edit, Intervention, check_name
from atlas.errors import IntegrityError, UsageError
from atlas.failures import unwritable
from atlas.files import finish

FORMAT = "neuron-atlas edit 1"


def write_bundle(edit: Edit, file: Path) -> None:
    """Write an edit to a file that `read_bundle` reads, whole or not at all.

    Raises:
        UsageError: the file is there already.
    """
    if file.exists():
        raise UsageError(f"{file} is there already; choose another name or remove it")
    deltas = edit.intervention.deltas
    tensors = {"deltas": np.zeros((0, 0), np.float32) if deltas is None else np.ascontiguousarray(deltas, np.float32)}
    said = as_json(edit) | {"format": FORMAT, "digest": digest(edit.intervention)}
    try:
        finish(file, lambda temporary: save_file(tensors, temporary, metadata={"edit": json.dumps(said)}))
    except OSError as error:
        raise unwritable(file, error) from error


def read_bundle(file: Path) -> Edit:
    """Read an edit that someone handed on, and check that it is what its sums say and fits its own model.

    Raises:
        UsageError: no such file, or not an edit's.
        IntegrityError: damaged, or impossible numbers.
    """
    if not file.is_file():
        raise UsageError(f"there is no file {file}; `atlas edit export NAME FILE` writes one")
    try:
        with safe_open(file, "numpy") as handle:
            said = json.loads((handle.metadata() or {}).get("edit", "{}"))
            found = handle.get_tensor("deltas") if "deltas" in handle.keys() else None  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise IntegrityError(f"{file} is damaged, or no safetensors file ({error})") from error
    if said.pop("format", None) != FORMAT:
        raise UsageError(f"{file} is no edit; `atlas edit export NAME FILE` writes one")
    try:
        wanted = said.pop("digest")
        deltas = None if found is None or not found.size else found.astype(np.float32)
        edit = from_json(said, deltas)
        if digest(edit.intervention) != wanted:
            raise ValueError("its content is not what its sum says")
        check_name(edit.name)
        _check(edit.intervention, edit.model)
    except (KeyError, TypeError, ValueError, UsageError) as error:
        raise IntegrityError(f"{file} is damaged ({error}); ask for it again") from error
    return replace(edit, provenance={**edit.provenance, "imported": f"{edit.label}"})


def _check(intervention: Intervention, model: Mapping[str, Any]) -> None:
    """Raise ValueError where an intervention cannot be one of its model."""
    for change in intervention.changes:
        neuron = change.neuron
        if not (0 <= neuron.layer < model["layers"] and 0 <= neuron.index < model["width"]):
            raise ValueError(f"its model has no neuron {neuron}")
        if not all(math.isfinite(v) for v in (change.gain, change.bias, change.noise)):
            raise ValueError(f"neuron {neuron} is changed by no number")
    deltas = intervention.deltas
    if deltas is not None and (deltas.shape[1] != model["d_model"] or not np.isfinite(deltas).all()):
        raise ValueError("its deltas are of another width, or no numbers")
