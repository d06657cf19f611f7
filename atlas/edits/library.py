"""The edits of an atlas: made from a set of neurons, read back, removed, applied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from atlas.edits import edit as parts
from atlas.edits import files as edit_files
from atlas.edits.edit import Edit, Intervention
from atlas.edits.kinds import ChangeKind, make_changes, unknown_kind, write_deltas
from atlas.edits.positions import EVERYWHERE, Positions
from atlas.edits.reference_values import reference_values, tap_of
from atlas.errors import IntegrityError, UsageError, unknown
from atlas.query import statements
from atlas.query.given import several, shown
from atlas.query.html import line_html, table_html
from atlas.query.neuron_set import NeuronSet, neuron_set, require_neurons
from atlas.query.provenance import Provenance, concepts_of, fingerprint_of, maps_of
from atlas.store import names
from atlas.store.atomic import sha256
from atlas.store.database import open_readonly

if TYPE_CHECKING:
    from atlas.live.edit.apply import Attached
    from atlas.live.model import LiveModel


class StoredEdit:
    """An edit read from the atlas. `data` is its content; `on` applies it."""

    data: Edit

    def __init__(self, data: Edit):
        self.data = data

    def __repr__(self) -> str:
        edit = self.data
        about = f" of {edit.concept}" if edit.concept else ""
        return f"StoredEdit({edit.label}: {len(edit.neurons)} neurons{about} in {edit.model['name']})"

    def _repr_html_(self) -> str:
        """Its line, note and changes, for a notebook."""
        lines = [repr(self), *filter(None, [self.data.note])]
        return "".join(map(line_html, lines)) + table_html(self.changes())

    def changes(self) -> pa.Table:
        """One row a change: neuron, x <- gain * x + bias (+ noise, its standard deviation), where; and delta, the norm
        of what is added to its write vector."""
        rows = []
        for change in self.data.changes:
            delta = self.data.intervention.delta(change)
            row = {"neuron": str(change.neuron), "gain": change.gain, "bias": change.bias, "noise": change.noise}
            row |= {"where": str(change.where), "delta": None if delta is None else float(np.linalg.norm(delta))}
            rows.append(row)
        return pa.Table.from_pylist(rows)

    @property
    def label(self) -> str:
        """`no-dog@1`: its name and version."""
        return self.data.label

    @property
    def report(self) -> dict[str, Any]:
        """What the solver that computed it reported; nothing of an edit that was not solved."""
        return dict(self.data.provenance.get("solver", {}).get("report", {}))

    def on(
        self, model: LiveModel | Any, *, processor: Any = None, any_weights: bool = False
    ) -> AbstractContextManager[None]:
        """Apply the edit to a live model while a `with` block lasts; blocks nest, the outer edit acts first.

            with atlas.edit("no-dog").on(model):
                model.generate(**inputs)

        model: a HuggingFace model, a `transformers.pipeline` or a `LiveModel`. processor: the model's, for edits that
        tell text from special tokens on a bare model. any_weights: also on other weights of the same shape.

        Raises:
            UsageError: on entering, where the model's weights are not those the edit was made for.
        """
        from atlas.live.edit.apply import applied

        return applied(self.data, model, processor=processor, any_weights=any_weights)

    def attach(self, model: LiveModel | Any, *, processor: Any = None, any_weights: bool = False) -> Attached:
        """Apply the edit until `.remove()` is called on what comes back, which the model keeps too: for notebooks.

        `atlas.live.attached(model)` lists what is attached. Warns where two attached edits change the same neurons.
        Otherwise as `on`.
        """
        from atlas.live.edit.apply import Attached

        return Attached(self.data, model, processor=processor, any_weights=any_weights)

    @property
    def neurons(self) -> NeuronSet:
        """The edit's neurons, for set algebra: `atlas.edit("a").neurons & atlas.edit("b").neurons`."""
        provenance = self.data.provenance
        origin: Provenance = {"fingerprint": self.data.fingerprint, "edit": self.data.label, "of": provenance}
        return neuron_set(self.data.neurons, origin)


def store(path: Path, edit: Edit) -> Edit:
    """Store an edit as the next version of its name; its own version is not looked at.

    Returns:
        The edit with its version.

    Raises:
        UsageError: a name that cannot be one, or numbers that are NaN or infinite.
    """
    import sqlalchemy as sa

    from atlas.edits.rows import load_edit
    from atlas.store.engine import connect_writer

    names.check_name(edit.name)
    parts.check_intervention(edit.name, edit.intervention)
    with connect_writer(path) as connection:
        # Effects keep the names of removed edits, so a version is never given twice.
        newest = sa.text(
            "SELECT max(v) FROM (SELECT coalesce(max(version), 0) AS v FROM edits WHERE name = :name UNION ALL "
            "SELECT coalesce(max(split_part(edit, '@', 2)::INTEGER), 0) FROM effects "
            "WHERE split_part(edit, '@', 1) = :name AND contains(edit, '@'))"
        )
        version = int(connection.execute(newest, {"name": edit.name}).scalar_one()) + 1
        edit = replace(edit, version=version)
        file = edit_files.write_edit(path, edit)
        try:
            load_edit(connection, edit_files.edit_row(edit, file), edit_files.changes_table(edit))
        except BaseException:
            file.unlink()
            edit_files.sweep(path)
            raise
    return edit


def model_row(path: Path, fingerprint: str, name: str | None = None) -> dict[str, Any]:
    """The model of these weights as an edit keeps it, of this name where several have them.

    Raises:
        UsageError: the atlas does not know them.
    """
    sql = "SELECT * EXCLUDE (model_id) FROM models WHERE fingerprint = $fingerprint ORDER BY name <> $name LIMIT 1"
    with open_readonly(path) as connection:
        rows = statements.Query(sql, {"fingerprint": fingerprint, "name": name or ""}).run(connection).to_pylist()
    if not rows:
        raise UsageError("the atlas knows no model of these weights; `atlas ingest --model ...` makes it known")
    return dict(rows[0])


def new(
    path: Path,
    name: str,
    intervention: Intervention,
    provenance: Provenance,
    *,
    model: Mapping[str, Any] | None = None,
    note: str | None = None,
) -> Edit:
    """Store an intervention under a name.

    provenance: has the fingerprint, and the maps whose concept it is about, or `concept`. model: its row; by default
    the atlas's own for the fingerprint.
    """
    from atlas.store.ledger import now

    maps = list(maps_of(provenance))
    concepts: set[str | None] = {*concepts_of(provenance)} or {provenance.get("concept")}
    if model is None:
        model = model_row(path, fingerprint_of(provenance), maps[0]["model"] if maps else None)
    concept = concepts.pop() if len(concepts) == 1 else None
    concept = None if concept == "*" else concept  # a map over all concepts
    return store(path, Edit(name, 0, dict(model), concept, provenance.copy(), intervention, now(), note))


def create(
    path: Path,
    name: str,
    neurons: NeuronSet,
    kind: ChangeKind,
    *,
    where: str | Positions = EVERYWHERE,
    seed: int = 0,
    note: str | None = None,
) -> Edit:
    """See `Atlas.create_edit`."""
    names.check_name(name)
    require_neurons(neurons)
    if not isinstance(kind, ChangeKind):
        raise unknown_kind(kind)
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise UsageError(f"[[seed]] must be a whole number, not {shown(seed)}")
    if not isinstance(where, str | Positions):
        raise UsageError(f"[[where]] must be a string or Positions, not {shown(where)}")
    positions = Positions.parse(where) if isinstance(where, str) else where
    distinct = tuple(dict.fromkeys(neurons.neurons))
    provenance = neurons.provenance
    statistics = reference_values(path, provenance, kind.statistic) if kind.statistic else None
    changes = make_changes(distinct, kind, statistics=statistics, where=positions)
    deltas = None
    if kind.name == "write_noise":
        deltas = write_deltas(distinct, kind, int(model_row(path, fingerprint_of(provenance))["d_model"]), seed)
    intervention = Intervention(changes, tap_of(provenance), deltas, seed)
    return new(path, name, intervention, {**provenance, "change": kind.plain()}, note=note)


def known(path: Path) -> set[str]:
    """The names of all stored edits."""
    return {str(edit["name"]) for edit in _known(path)}


def _known(path: Path) -> list[dict[str, Any]]:
    with open_readonly(path) as connection:
        rows: list[dict[str, Any]] = statements.listing("edits").run(connection).to_pylist()
        return rows


def _versions(path: Path, label: str) -> tuple[str, list[int]]:
    """The name of a label, and the versions it means, oldest first."""
    name, version = parts.split_label(label)
    known = _known(path)
    have = [int(e["version"]) for e in known if e["name"] == name]
    chosen = [v for v in have if version in (None, v)]
    if not chosen:
        known_labels = {f"{name}@{v}" for v in have} or {e["name"] for e in known}
        raise unknown("edit", label, known_labels, "atlas edit ls")
    return name, chosen


def read(path: Path, label: str) -> StoredEdit:
    """See `Atlas.edit`."""
    name, versions = _versions(path, label)
    file = edit_files.file_of(path, name, versions[-1])
    edit = edit_files.read_edit(file)
    sql = "SELECT sha256 FROM edits WHERE name = $name AND version = $version"
    with open_readonly(path) as connection:
        row = connection.execute(sql, {"name": name, "version": versions[-1]}).fetchone()
    if row is not None and row[0] != sha256(file):
        raise IntegrityError(
            f"{file} is not the file that was stored; if you mean what it says, `atlas db rebuild` takes it as it is, "
            "else create the edit again"
        )
    return StoredEdit(edit)


def remove(path: Path, label: str) -> list[str]:
    """See `Atlas.remove_edit`."""
    import sqlalchemy as sa

    from atlas.edits.rows import forget_edit
    from atlas.store.engine import connect_writer

    name, versions = _versions(path, label)
    with connect_writer(path) as connection:
        for version in versions:
            query = sa.text("SELECT edit_id FROM edits WHERE name = :name AND version = :version")
            forget_edit(connection, int(connection.execute(query, {"name": name, "version": version}).scalar_one()))
    with connect_writer(path):  # the rows are gone for good, and nobody writes an edit meanwhile
        for version in versions:
            edit_files.file_of(path, name, version).unlink(missing_ok=True)
        edit_files.sweep(path)
    return [f"{name}@{version}" for version in versions]


def composed(path: Path, name: str, labels: Sequence[str], conflict: str, *, note: str | None = None) -> Edit:
    """See `Atlas.compose_edits`."""
    from atlas.edits.compose import compose

    labels = several(labels)
    if len(labels) < 2:
        raise UsageError("compose two edits or more: atlas edit compose no-pets no-dog no-cat")
    parts = [read(path, label).data for label in labels]
    concepts = {part.concept for part in parts}
    concept = concepts.pop() if len(concepts) == 1 else None
    about: Provenance = {
        "fingerprint": parts[0].fingerprint,
        "concept": concept,
        "composed": [part.label for part in parts],
        "conflict": conflict,
        "parts": [part.provenance for part in parts],
    }
    return new(path, name, compose(parts, conflict), about, model=parts[0].model, note=note)
