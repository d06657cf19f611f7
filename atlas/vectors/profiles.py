"""A neuron's profile: its scores over concepts, of one method, source, target and reduction, standardised map by map.

Made from the stored maps alone. A map that keeps only its best scores has none for most neurons, so it is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from atlas.errors import Unsupported, UsageError
from atlas.neurons import LANGUAGE
from atlas.query.map_spec import MapSpec
from atlas.query.resolve_maps import StoredMap, choose_concepts

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection


def whole_maps(connection: Connection, which: MapSpec, names: Sequence[str] = ()) -> list[StoredMap]:
    """One map for each concept (of these names), in the order of their names, alike in all else; none cut short.

    Raises:
        UsageError: there is none, or some keep only their best scores.
    """
    chosen = choose_concepts(connection, replace(which, concept=None), names)
    for one in chosen:
        if one["kept"] < one["neurons"]:
            raise UsageError(
                f"the {one['method']} map of '{one['concept']}' keeps its best {one['kept']:,} of {one['neurons']:,} "
                "scores, and a profile needs them all; `atlas ingest --keep all` stores them"
            )
        if one["component"] != LANGUAGE:
            raise Unsupported(f"profiles are of the language model's neurons, not of '{one['component']}'")
    return chosen


def profiles(connection: Connection, chosen: Sequence[StoredMap]) -> np.ndarray:
    """(layers * width, concepts) float32: how many standard deviations of its map a neuron's score lies above the
    map's mean; 0 where the map does not score it, or scores all alike. Neuron i of layer l is row l * width + i."""
    layers, width = int(chosen[0]["layers"]), int(chosen[0]["width"])
    out = np.zeros((layers * width, len(chosen)), np.float32)
    query = """
SELECT s.layer::INTEGER * $width + s.neuron AS at, coalesce((s.score - m.mean) / nullif(m.std, 0), 0)::FLOAT AS z
FROM scores s JOIN maps m USING (map_id) WHERE s.map_id = $map"""
    for column, one in enumerate(chosen):
        found = connection.sql(query, params={"map": one["map_id"], "width": width}).fetchnumpy()
        out[found["at"], column] = found["z"]
    return out


def described(chosen: Sequence[StoredMap]) -> dict[str, Any]:
    """What the maps of a profile have in common, and which they are, for a job."""
    first: Mapping[str, Any] = chosen[0].row
    same = {name: first[name] for name in ("method", "source", "target", "reduce", "tap", "dataset")}
    runs = sorted({str(one["run_id"]) for one in chosen})
    return {**same, "concepts": [str(one["concept"]) for one in chosen], "runs": runs}
