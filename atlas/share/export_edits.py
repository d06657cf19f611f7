"""Edits and selections of an atlas, written into a bundle."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from atlas.edits.files import read_edit, tensors_of
from atlas.edits.single_file import without_folders
from atlas.query import saved as query_saved
from atlas.share.choice import Choice, from_chosen_maps
from atlas.share.portable import portable, portable_model
from atlas.store.atomic import write_atomically


def write_json(file: Path, payload: Mapping[str, Any]) -> None:
    """Write plain objects as a JSON file."""
    text = json.dumps(payload, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(file, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_edits(
    path: Path, folder: Path, choice: Choice, fingerprints: set[str] | None, known: Sequence[str]
) -> list[str]:
    """Write the edits of these weights and of the chosen maps, byte for byte where they contain no local path; returns
    their labels."""
    labels = []
    for file in sorted((path / "edits").glob("*@*.json")):
        edit = read_edit(file)
        if fingerprints is not None and edit.fingerprint not in fingerprints:
            continue
        if not from_chosen_maps(edit.provenance, edit.concept, choice):
            continue
        payload = json.loads(file.read_text(encoding="utf-8"))
        clean = payload | {"provenance": portable(without_folders(payload["provenance"]), *known)}
        clean |= {"model": portable_model(payload["model"])}
        (folder / "edits").mkdir(exist_ok=True)
        for tensors in tensors_of(file, verify=True):
            shutil.copyfile(file.with_name(f"{tensors}.safetensors"), folder / "edits" / f"{tensors}.safetensors")
        if clean == payload:
            shutil.copyfile(file, folder / "edits" / file.name)
        else:
            write_json(folder / "edits" / file.name, clean)
        labels.append(edit.label)
    return labels


def write_selections(
    path: Path, folder: Path, choice: Choice, fingerprints: set[str] | None, known: Sequence[str]
) -> list[str]:
    """Write the selections of these weights and of the chosen maps, without local paths; returns their names."""
    saved = []
    for name in query_saved.names(path):
        file = query_saved.file_of(path, name)
        selection = query_saved.read(file)
        if fingerprints is not None and selection.fingerprint not in fingerprints:
            continue
        if not from_chosen_maps(selection.provenance, None, choice):
            continue
        payload = json.loads(file.read_text(encoding="utf-8"))
        (folder / "selections").mkdir(exist_ok=True)
        write_json(query_saved.file_of(folder, name), payload | {"provenance": portable(payload["provenance"], *known)})
        saved.append(name)
    return saved
