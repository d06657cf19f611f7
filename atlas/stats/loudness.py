"""How loud every neuron usually is: the mean of its absolute value, which matched neurons have in common."""

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
"""What is read, the first that is stored, and what neurons matched by it have in common. Atlases from before
`mean_abs` have only the mean, which is near 0 also where large values of both signs cancel."""


@dataclass(frozen=True, slots=True)
class Loudness:
    """Of a model's neurons, in the order of layers: one array, (layers * width,), for each source.

    by: what neurons matched by it have in common; "" where the width of the layers is not known, so that there is
    nothing to match by. neurons: layers * width, or 0.
    """

    values: tuple[Floats, ...]
    by: str
    width: int
    neurons: int

    def covers(self, maps: Iterable[StoredMap]) -> bool:
        """Whether the maps score every neuron of the model."""
        return self.neurons > 0 and all(c["neurons"] == self.neurons for c in maps)

    def places(self, neurons: pa.Table) -> Whole:
        """Of neurons with the columns layer and neuron, their numbers in the order of layers."""
        return _places(neurons, self.width or 2**31)

    def places_of(self, neurons: Iterable[tuple[int, int]]) -> list[int]:
        """Of (layer, neuron)s, their numbers in the order of layers."""
        return [layer * (self.width or 2**31) + neuron for layer, neuron in neurons]


def loudness_of(connection: Connection, chosen: Sequence[StoredMap]) -> Loudness:
    """That of the maps' model, for every source of theirs, from a run that knows of as many neurons as they score."""
    row = chosen[0]
    if row["component"] != LANGUAGE:  # how wide other components are is not stored
        return Loudness((), "", 0, 0)
    layers, width = int(row["layers"]), int(row["width"])
    least = max(c["neurons"] for c in chosen)
    same = {name: row[name] for name in ("model", "dataset", "fingerprint", "tap")}
    for kind, by in KINDS.items():
        found = []
        for source in sorted({str(c["source"]) for c in chosen}):
            maps = find_maps(MapSpec("*", "activation", source=source, reduce=kind, **same)).run(connection).to_pylist()
            found += [m["map_id"] for m in maps if m["component"] == LANGUAGE and m["neurons"] >= least][:1]
        if len(found) == len({str(c["source"]) for c in chosen}):
            return Loudness(tuple(_stored(connection, i, layers, width) for i in found), by, width, layers * width)
    return Loudness((), "layer", width, layers * width)


def stored_loudness(connection: Connection, fingerprint: str, tap: str) -> dict[int, Floats]:
    """layer -> (width,) of the model with these weights, the mean over the sources of the newest run that has it; empty
    where none has."""
    import numpy as np

    for kind in KINDS:
        found = find_maps(MapSpec("*", "activation", reduce=kind, fingerprint=fingerprint, tap=tap))
        maps = [m for m in found.run(connection).to_pylist() if m["component"] == LANGUAGE]
        maps = [m for m in maps if m["run_id"] == maps[0]["run_id"]]
        if maps:
            layers, width = int(maps[0]["layers"]), int(maps[0]["width"])
            each = [_stored(connection, m["map_id"], layers, width) for m in maps]
            return dict(enumerate(np.mean(each, axis=0).reshape(layers, width)))
    return {}


def _stored(connection: Connection, map_id: int, layers: int, width: int) -> Floats:
    import numpy as np

    stored = compare_maps.map_scores(map_id).run(connection)
    loud = np.zeros(layers * width)
    loud[_places(stored, width)] = np.abs(stored["score"].to_numpy())
    return loud


def _places(neurons: pa.Table, width: int) -> Whole:
    found: Whole = neurons["layer"].to_numpy().astype("int64") * width + neurons["neuron"].to_numpy()
    return found
