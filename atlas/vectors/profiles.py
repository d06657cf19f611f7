"""A neuron's profile: its scores over concepts, of one method, source, target and reduction, standardised map by map.

Computed from stored maps only. A map that keeps only its best scores has none for most neurons, so it is refused.
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


def whole_maps(connection: Connection, spec: MapSpec, names: Sequence[str] = ()) -> list[StoredMap]:
    """One map for each concept (of these names), ordered by name, otherwise alike; all with every score.

    Raises:
        UsageError: there is none, or some keep only their best scores.
    """
    chosen = choose_concepts(connection, replace(spec, concept=None), names)
    for chosen_map in chosen:
        if chosen_map["kept"] < chosen_map["neurons"]:
            raise UsageError(
                f"the {chosen_map['method']} map of '{chosen_map['concept']}' has only its best "
                f"{chosen_map['kept']:,} of {chosen_map['neurons']:,} scores, and a profile needs them all; "
                "`atlas ingest --keep all` stores them"
            )
        if chosen_map["component"] != LANGUAGE:
            raise Unsupported(
                f"profiles exist for the language model's neurons only, not for '{chosen_map['component']}'"
            )
    return chosen


def profiles(connection: Connection, chosen: Sequence[StoredMap]) -> np.ndarray:
    """(layers * width, concepts) float32: a neuron's score in standard deviations of its map above the map's mean; 0
    where the map does not score it, or all scores are equal. Neuron i of layer l is row l * width + i."""
    layers, width = int(chosen[0]["layers"]), int(chosen[0]["width"])
    out = np.zeros((layers * width, len(chosen)), np.float32)
    query = """
SELECT s.layer::INTEGER * $width + s.neuron AS at, coalesce((s.score - m.mean) / nullif(m.std, 0), 0)::FLOAT AS z
FROM scores s JOIN maps m USING (map_id) WHERE s.map_id = $map"""
    for column, chosen_map in enumerate(chosen):
        scores = connection.sql(query, params={"map": chosen_map["map_id"], "width": width}).fetchnumpy()
        out[scores["at"], column] = scores["z"]
    return out


def common_facts(chosen: Sequence[StoredMap]) -> dict[str, Any]:
    """What the maps of a profile have in common, with their concepts and runs, for a job's record."""
    first: Mapping[str, Any] = chosen[0].row
    same = {name: first[name] for name in ("method", "source", "target", "reduce", "tap", "dataset")}
    runs = sorted({str(chosen_map["run_id"]) for chosen_map in chosen})
    return {**same, "concepts": [str(chosen_map["concept"]) for chosen_map in chosen], "runs": runs}
