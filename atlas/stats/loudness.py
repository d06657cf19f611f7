"""How large every neuron's values usually are: the mean of the absolute value, by which neurons are matched."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from atlas.neurons import LANGUAGE
from atlas.query import compare_maps
from atlas.query.map_spec import MapSpec
from atlas.query.resolve_maps import StoredMap
from atlas.query.statements import find_maps

if TYPE_CHECKING:
    import numpy as np
    from duckdb import DuckDBPyConnection as Connection
    from numpy.typing import NDArray

    Whole = NDArray[np.int64]
    Floats = NDArray[np.float64]

MEAN_ABSOLUTE = "mean_abs"
"""The reduction under which the method `activation` stores it for the concept "*", over all positions of a source."""

KINDS = {MEAN_ABSOLUTE: "layer and mean |activation|", "mean": "layer and |mean activation|"}
"""Reduction -> what neurons matched by it have in common; the first that is stored is used. Atlases older than
`mean_abs` have only the mean, which is also near 0 where large values of both signs cancel."""


@dataclass(frozen=True, slots=True)
class Loudness:
    """Loudness of a model's neurons, ordered by layer: one array, (layers * width,), for each source.

    by: what neurons matched by it have in common; "" where the width of the layers is not known, so that matching is
    impossible. neurons: layers * width, or 0.
    """

    values: tuple[Floats, ...]
    by: str
    width: int
    neurons: int

    def covers(self, maps: Iterable[StoredMap]) -> bool:
        """Whether the maps score every neuron of the model."""
        return self.neurons > 0 and all(c["neurons"] == self.neurons for c in maps)

    def places(self, neurons: pa.Table) -> Whole:
        """The numbers, ordered by layer, of neurons given by the columns layer and neuron."""
        return _places(neurons, self.width or 2**31)

    def places_of(self, neurons: Iterable[tuple[int, int]]) -> list[int]:
        """The numbers, ordered by layer, of neurons given as (layer, neuron)."""
        return [layer * (self.width or 2**31) + neuron for layer, neuron in neurons]


def loudness_of(connection: Connection, chosen: Sequence[StoredMap]) -> Loudness:
    """The loudness of the maps' model, for each of their sources, from a run that covers all neurons they score."""
    row = chosen[0]
    if row["component"] != LANGUAGE:  # how wide other components are is not stored
        return Loudness((), "", 0, 0)
    layers, width = int(row["layers"]), int(row["width"])
    most_neurons = max(c["neurons"] for c in chosen)
    same = {name: row[name] for name in ("model", "dataset", "fingerprint", "tap")}
    for kind, by in KINDS.items():
        map_ids = []
        for source in sorted({str(c["source"]) for c in chosen}):
            maps = find_maps(MapSpec("*", "activation", source=source, reduce=kind, **same)).run(connection).to_pylist()
            map_ids += [m["map_id"] for m in maps if m["component"] == LANGUAGE and m["neurons"] >= most_neurons][:1]
        if len(map_ids) == len({str(c["source"]) for c in chosen}):
            return Loudness(
                tuple(_stored_values(connection, i, layers, width) for i in map_ids), by, width, layers * width
            )
    return Loudness((), "layer", width, layers * width)


def stored_loudness(connection: Connection, fingerprint: str, tap: str) -> dict[int, Floats]:
    """layer -> (width,) of the model with these weights, the mean over the sources of the newest run that has it; empty
    without one."""
    import numpy as np

    for kind in KINDS:
        query = find_maps(MapSpec("*", "activation", reduce=kind, fingerprint=fingerprint, tap=tap))
        maps = [m for m in query.run(connection).to_pylist() if m["component"] == LANGUAGE]
        maps = [m for m in maps if m["run_id"] == maps[0]["run_id"]]
        if maps:
            layers, width = int(maps[0]["layers"]), int(maps[0]["width"])
            each = [_stored_values(connection, m["map_id"], layers, width) for m in maps]
            return dict(enumerate(np.mean(each, axis=0).reshape(layers, width)))
    return {}


def _stored_values(connection: Connection, map_id: int, layers: int, width: int) -> Floats:
    import numpy as np

    stored = compare_maps.map_scores(map_id).run(connection)
    loud = np.zeros(layers * width)
    loud[_places(stored, width)] = np.abs(stored["score"].to_numpy())
    return loud


def _places(neurons: pa.Table, width: int) -> Whole:
    places: Whole = neurons["layer"].to_numpy().astype("int64") * width + neurons["neuron"].to_numpy()
    return places
