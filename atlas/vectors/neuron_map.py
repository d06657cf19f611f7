"""A map of neurons: every neuron of a space of vectors as a point, named by its best concept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from atlas.neurons import Neuron
from atlas.query.decoded import tokens_of
from atlas.query.map_spec import MapSpec
from atlas.query.resolve_maps import choose_concepts
from atlas.query.statements import Query
from atlas.vectors.faiss_files import unit
from atlas.vectors.spaces import Space

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection

NONE = "none"
"""The label of a neuron that no map scores."""

_POINTS = f"""
WITH best AS (
    SELECT m.component, s.layer, s.neuron, min(struct_pack(rank := s.rank, concept := c.name)) AS best
    FROM scores s JOIN maps m USING (map_id) JOIN concepts c USING (concept_id)
    WHERE list_contains($maps, s.map_id) GROUP BY ALL)
SELECT v.component, v.layer, v.neuron, v.vector, coalesce(b.best.concept, '{NONE}') AS label, b.best.rank AS rank,
       array_to_string(d.tokens[1:10], ' ') AS text
FROM vectors v LEFT JOIN best b USING (component, layer, neuron)
{{tokens}}
WHERE v.run_id = $run ORDER BY v.component, v.layer, v.neuron"""


def neuron_map(connection: Connection, space: Space) -> tuple[pa.Table, dict[str, Any]]:
    """One row a neuron that has a vector: neuron (its address), layer, x, y, label, rank, text; and where it is from.

    x, y: the first two principal components of the vectors scaled to length 1. label: the concept for which it ranks
    best, among the maps that a question of every concept would use, and its `rank` there; "none" without a score.
    text: the tokens that it raises.

    Raises:
        UsageError: the model has no map of a single concept.
    """
    maps = choose_concepts(connection, MapSpec(model=str(space.model["name"])))
    statement = _POINTS.strip().format(tokens=tokens_of("v", "$model_id"))
    values = {"maps": [m["map_id"] for m in maps], "run": space.run_id, "model_id": space.model["model_id"]}
    rows = Query(statement, values).run(connection)
    vectors = np.array(rows["vector"].combine_chunks().flatten()).reshape(len(rows), -1)
    points, explained = principal_components(unit(vectors))
    addresses = [
        str(Neuron(*where))
        for where in zip(*(rows[name].to_pylist() for name in ("component", "layer", "neuron")), strict=True)
    ]
    columns = {"neuron": pa.array(addresses), "layer": rows["layer"], "x": points[:, 0], "y": points[:, 1]}
    table = pa.table(columns | {name: rows[name] for name in ("label", "rank", "text")})
    about = {name: maps[0][name] for name in ("method", "source", "target", "reduce")}
    about |= {"model": space.model["name"], "fingerprint": space.model["fingerprint"], "space": space.space}
    about |= {"runs": [space.run_id, *sorted({str(m["run_id"]) for m in maps})], "explained": explained}
    return table, about


def principal_components(rows: np.ndarray, count: int = 2) -> tuple[np.ndarray, list[float]]:
    """(rows, count) float32, the rows along their first principal components, and the share of the variance of each.

    rows: (rows, dimension). The sign of a component is that in which its largest coefficient is positive, so that the
    same rows give the same points.
    """
    centred = np.asarray(rows, np.float64) - rows.mean(0)
    variances, directions = np.linalg.eigh(centred.T @ centred)
    order = np.argsort(variances)[::-1][:count]
    chosen = directions[:, order]
    chosen = chosen * np.sign(chosen[np.abs(chosen).argmax(0), np.arange(chosen.shape[1])])
    points = np.zeros((len(rows), count), np.float32)
    points[:, : chosen.shape[1]] = centred @ chosen
    total = float(variances.sum()) or 1.0
    return points, [max(0.0, float(variances[i])) / total for i in order]


def strongest_first(table: pa.Table, most: int) -> Sequence[str]:
    """The addresses of the neurons that rank best for any concept, at most so many."""
    ranked = [
        (rank, neuron) for rank, neuron in zip(table["rank"].to_pylist(), table["neuron"].to_pylist(), strict=True)
    ]
    return [neuron for rank, neuron in sorted(pair for pair in ranked if pair[0] is not None)[:most]]
