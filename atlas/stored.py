"""The edits of an atlas: made from a set of neurons, read back, removed, applied."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atlas import edits, queries
from atlas.choose import choose_map, one_tap
from atlas.database import reading
from atlas.edits import Edit
from atlas.errors import UsageError, unknown
from atlas.neurons import Neuron
from atlas.queries import Which
from atlas.selection import NeuronSet

if TYPE_CHECKING:
    from atlas.live.model import LiveModel


class StoredEdit:
    """An edit read from the atlas. `data` is its content; `on` applies it."""

    def __init__(self, data: Edit):
        self.data = data

    def on(self, model: LiveModel | Any) -> AbstractContextManager[None]:
        """Apply the edit to a live model (a `LiveModel` or a HuggingFace model) while a `with` block lasts.

            with atlas.edit("no-dog").on(model):
                model.generate(**inputs)

        Raises:
            UsageError: on entering, where the model's weights are not those the edit was made for.
        """
        from atlas.live.edit import applied

        return applied(self.data, model)


def create(
    path: Path,
    name: str,
    neurons: NeuronSet,
    *,
    set_to: float | None = None,
    scale: float | None = None,
    shift: float | None = None,
    mean: bool = False,
) -> Edit:
    """See `Atlas.create_edit`."""
    import sqlalchemy as sa

    from atlas import store
    from atlas.ledger import now
    from atlas.rebuild import load_edit

    edits.check_name(name)
    maps = list(maps_of(neurons.provenance))
    means = means_of(path, maps) if mean else None
    changes = edits.make_changes(neurons.neurons, set_to=set_to, scale=scale, shift=shift, means=means)
    concepts = {m["concept"] for m in maps}
    with store.connect_writer(path) as connection:
        # Effects keep the names of removed edits, so a version is never given twice.
        newest = sa.text(
            "SELECT max(v) FROM (SELECT coalesce(max(version), 0) AS v FROM edits WHERE name = :name UNION ALL "
            "SELECT coalesce(max(split_part(edit, '@', 2)::INTEGER), 0) FROM effects "
            "WHERE split_part(edit, '@', 1) = :name AND contains(edit, '@'))"
        )
        version = int(connection.execute(newest, {"name": name}).scalar_one()) + 1
        models = sa.text(
            "SELECT * EXCLUDE (model_id) FROM models WHERE fingerprint = :fingerprint ORDER BY name <> :name LIMIT 1"
        )
        asked = {"fingerprint": neurons.provenance["fingerprint"], "name": maps[0]["model"]}
        model = connection.execute(models, asked).mappings().one()
        edit = Edit(
            name=name,
            version=version,
            model=dict(model),
            tap=one_tap(maps),
            concept=concepts.pop() if len(concepts) == 1 else None,
            provenance=neurons.provenance | {"change": {"set": set_to, "scale": scale, "shift": shift, "mean": mean}},
            changes=changes,
            created_at=now(),
        )
        file = edits.write_edit(path, edit)
        load_edit(connection, edits.edit_row(edit, file), edits.changes_table(edit))
    return edit


def means_of(path: Path, maps: Sequence[Mapping[str, Any]]) -> dict[Neuron, float]:
    """Every neuron's mean over all positions, averaged over the sources of `maps`.

    The means are those that the method `activation` keeps, of the same weights and tap.

    Raises:
        UsageError: there are none.
    """
    sources = sorted({str(m["source"]) for m in maps})
    sums: dict[Neuron, float] = {}
    with reading(path) as connection:
        for source in sources:
            row = next(m for m in maps if m["source"] == source)
            same = {name: row[name] for name in ("source", "target", "model", "dataset", "fingerprint")}
            which = Which(concept="*", method="activation", reduce="mean", tap=one_tap(maps), **same)
            try:
                chosen = choose_map(connection, which)
            except UsageError:
                raise UsageError(
                    f"no mean values are stored for {row['model']}, source {source}, tap {row['tap']}; "
                    f"`atlas ingest --methods activation --tap {row['tap']}` stores them"
                ) from None
            found = queries.top_neurons(chosen["map_id"], top=chosen["neurons"]).run(connection)
            columns = (found[name].to_pylist() for name in ("component", "layer", "neuron", "score"))
            for component, layer, index, score in zip(*columns, strict=True):
                neuron = Neuron(component, layer, index)
                sums[neuron] = sums.get(neuron, 0.0) + score / len(sources)
    return sums


def _known(path: Path) -> list[dict[str, Any]]:
    with reading(path) as connection:
        rows: list[dict[str, Any]] = queries.listing("edits").run(connection).to_pylist()
        return rows


def _versions(path: Path, label: str) -> tuple[str, list[int]]:
    """The name of a label, and the versions it means, oldest first."""
    name, version = edits.split_label(label)
    known = _known(path)
    have = [int(e["version"]) for e in known if e["name"] == name]
    chosen = [v for v in have if version in (None, v)]
    if not chosen:
        there = {f"{name}@{v}" for v in have} or {e["name"] for e in known}
        raise unknown("edit", label, there, "atlas edit ls")
    return name, chosen


def read(path: Path, label: str) -> StoredEdit:
    """See `Atlas.edit`."""
    name, versions = _versions(path, label)
    return StoredEdit(edits.read_edit(edits.file_of(path, name, versions[-1])))


def remove(path: Path, label: str) -> list[str]:
    """See `Atlas.remove_edit`."""
    import sqlalchemy as sa

    from atlas import store
    from atlas.rebuild import forget_edit

    name, versions = _versions(path, label)
    with store.connect_writer(path) as connection:
        for version in versions:
            query = sa.text("SELECT edit_id FROM edits WHERE name = :name AND version = :version")
            forget_edit(connection, int(connection.execute(query, {"name": name, "version": version}).scalar_one()))
            edits.file_of(path, name, version).unlink(missing_ok=True)
    return [f"{name}@{version}" for version in versions]


def maps_of(provenance: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every map that a set of neurons came from, through set algebra."""
    yield from provenance.get("maps", ())
    for side in ("left", "right"):
        if side in provenance:
            yield from maps_of(provenance[side])
