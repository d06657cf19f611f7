"""Saved selections: neurons under a name, each one file `selections/<name>.json`.

A file has `format`, `name`, `fingerprint` (the model's weights), `neurons` (addresses, best first), `provenance` (what
was asked, of which maps), `created_at` and `note`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pyarrow as pa

from atlas.errors import IntegrityError, UsageError, unknown
from atlas.neurons import Neuron
from atlas.query.filter_text import text_of
from atlas.query.filters import from_json
from atlas.query.neuron_set import NeuronSet, neuron_set
from atlas.query.provenance import Provenance, fingerprint_of
from atlas.store.atomic import write_atomically
from atlas.store.duckdb_errors import unwritable
from atlas.store.names import check_name
from atlas.store.scratch import folder_lock

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Selection:
    """One saved selection."""

    name: str
    fingerprint: str
    neurons: tuple[Neuron, ...]
    provenance: Provenance
    created_at: str
    note: str | None = None

    def as_set(self) -> NeuronSet:
        """The neurons as a set whose provenance names the selection."""
        return neuron_set(
            self.neurons, {"fingerprint": self.fingerprint, "selection": self.name, "of": self.provenance}
        )


def file_of(atlas: Path, name: str) -> Path:
    """Where a selection of this name is stored."""
    return atlas / "selections" / f"{name}.json"


def save(atlas: Path, name: str, neurons: NeuronSet, *, note: str | None = None, replace: bool = False) -> Selection:
    """Save neurons under a name.

    Raises:
        UsageError: a bad name, no neurons, neurons of several models, or a name that exists and is not to be replaced.
    """
    from atlas.store.ledger import now

    check_name(name, "a selection")
    members = tuple(dict.fromkeys(neurons.neurons))
    if not members:
        raise UsageError("there are no neurons to save; ask for more (a larger [[top]], another [[where]])")
    fingerprint = fingerprint_of(neurons.provenance)
    file = file_of(atlas, name)
    selection = Selection(name, fingerprint, members, neurons.provenance.copy(), now(), note)
    payload = {
        "format": FORMAT,
        "name": name,
        "fingerprint": selection.fingerprint,
        "neurons": [str(n) for n in members],
    }
    payload |= {"provenance": selection.provenance, "created_at": selection.created_at, "note": note}
    text = json.dumps(payload, indent=1, ensure_ascii=False) + "\n"
    try:
        with folder_lock(atlas):
            if file.exists() and not replace:
                raise UsageError(f"a selection called '{name}' already exists; give another name, or use [[replace]]")
            write_atomically(file, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    except OSError as error:
        raise unwritable(atlas, error) from error
    return selection


def read(file: Path) -> Selection:
    """Read one selection's file.

    Raises:
        IntegrityError: it is damaged.
    """
    try:
        payload = json.loads(file.read_text(encoding="utf-8"))
        if payload["format"] != FORMAT or payload["name"] != file.stem:
            raise ValueError(f"it has another format, or is the selection '{payload['name']}'")
        neurons = tuple(Neuron.parse(text) for text in payload["neurons"])
        texts = (payload["name"], payload["fingerprint"], payload["created_at"], payload["note"] or "")
        if not neurons or not all(isinstance(t, str) for t in texts) or not isinstance(payload["provenance"], dict):
            raise ValueError("a part is missing")
        check_name(payload["name"], "a selection")
        return Selection(
            payload["name"],
            payload["fingerprint"],
            neurons,
            cast(Provenance, payload["provenance"]),
            payload["created_at"],
            payload["note"],
        )
    except (OSError, KeyError, TypeError, ValueError, AttributeError, UsageError, RecursionError) as error:
        raise IntegrityError(
            f"the selection's file {file} is damaged ({error}); save it again, or remove it"
        ) from error


def names(atlas: Path) -> list[str]:
    """The names of every saved selection, sorted."""
    return sorted(file.stem for file in (atlas / "selections").glob("*.json"))


def listing(atlas: Path) -> pa.Table:
    """Every saved selection: its neurons' number, concepts, methods, models, filter and weights, its date and note."""
    rows = []
    for name in names(atlas):
        selection = read(file_of(atlas, name))
        maps = selection.provenance.get("maps", [])
        about = {key: ", ".join(dict.fromkeys(str(m[key]) for m in maps)) for key in ("concept", "method", "model")}
        rows.append({"name": name, "neurons": len(selection.neurons), **about, "where": _where(selection.provenance)})
        rows[-1]["weights"] = selection.fingerprint[:12]
        rows[-1] |= {"created_at": selection.created_at, "note": selection.note}
    text = ("concept", "method", "model", "where", "weights", "created_at", "note")
    types = [("name", pa.string()), ("neurons", pa.int64()), *((key, pa.string()) for key in text)]
    return pa.Table.from_pylist(rows, schema=pa.schema(types))


def _where(provenance: Provenance) -> str | None:
    """The filter that found the neurons, as text; none for a set of other selections."""
    selection = provenance.get("selection")
    if not isinstance(selection, dict):
        return None
    try:
        return text_of(from_json(selection["where"]))
    except (KeyError, TypeError, UsageError):
        return None


def remove(atlas: Path, name: str) -> None:
    """Remove a saved selection.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in names(atlas):
        raise unknown("selection", name, names(atlas), "atlas select ls")
    file_of(atlas, name).unlink()
