"""Neurons' stored values at each kind of token, beside what neurons of the same layers have on average."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from atlas.query.statements import Query
from atlas.stats.intervals import UNBOUNDED, of_values
from atlas.token_roles import ROLES

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection

PROFILE = "modality_profile"
STATISTICS: Mapping[str, str] = {
    f"{PROFILE}.share": "share of the neuron's mean |activation|",
    f"{PROFILE}.rate": "share of positions where it is above 0",
    f"{PROFILE}.mean": "mean activation",
    "lape.role": "share of positions where it is above 0",
    "miner": "MINER's weighted sum",
    **{f"miner.{name}": f"MINER's {name}" for name in ("prob", "mean", "max", "attn_k", "attn_q")},
}
"""Methods whose maps have a token role as their source -> what a value is."""

SHARES = frozenset({f"{PROFILE}.share", f"{PROFILE}.rate", "lape.role", "miner.prob"})
"""Those whose values are from 0 to 1."""

SCHEMA = pa.schema(
    [("statistic", pa.string()), ("role", pa.string())]
    + [(name, pa.float64()) for name in ("value", "low", "high", "expected")]
    + [("neurons", pa.int64()), ("positions", pa.int64()), ("run_id", pa.string())]
)

Address = tuple[int, int]
"""Layer and neuron."""


def role_values(connection: Connection, maps: Sequence[Mapping[str, Any]], neurons: Sequence[Address]) -> pa.Table:
    """One row for every map of a statistic and role: see `atlas.questions.roles`. maps: rows of `find_maps`, with all
    scores. neurons: without repetition."""
    ids = [m["map_id"] for m in maps]
    values = {row["map_id"]: row for row in _values(ids, neurons).run(connection).to_pylist()}
    means = {(row["map_id"], row["layer"]): row["mean"] for row in _means(ids).run(connection).to_pylist()}
    order = list(STATISTICS)
    rows = []
    for m in sorted(maps, key=lambda m: (order.index(m["method"]), ROLES.index(m["source"]))):
        found = values.get(m["map_id"], {"scores": [], "layers": []})
        scores, layers = found["scores"], Counter(found["layers"])
        row = {"statistic": m["method"], "role": m["source"], "positions": m["examples"], "run_id": m["run_id"]}
        row |= {"neurons": len(scores), "value": None, "low": None, "high": None, "expected": None}
        if scores:
            interval = of_values(scores, (0.0, 1.0) if m["method"] in SHARES else UNBOUNDED)
            row |= {"value": sum(scores) / len(scores), "low": interval.low, "high": interval.high}
            row["expected"] = sum(n * means[m["map_id"], layer] for layer, n in layers.items()) / len(scores)
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _values(ids: Sequence[int], neurons: Sequence[Address]) -> Query:
    """The scores of these neurons in each map, and their layers."""
    return Query(
        """
WITH chosen AS (SELECT unnest($layers::SMALLINT[]) AS layer, unnest($neurons::INTEGER[]) AS neuron)
SELECT s.map_id, list(s.score::DOUBLE ORDER BY s.layer, s.neuron) AS scores,
       list(s.layer ORDER BY s.layer, s.neuron) AS layers
FROM scores s SEMI JOIN chosen USING (layer, neuron)
WHERE s.map_id IN (SELECT unnest($maps::INTEGER[])) GROUP BY s.map_id""".strip(),
        {"maps": list(ids), "layers": [layer for layer, _ in neurons], "neurons": [n for _, n in neurons]},
    )


def _means(ids: Sequence[int]) -> Query:
    """The mean over each layer's neurons in each map."""
    sql = """
SELECT map_id, layer, avg(score::DOUBLE) AS mean FROM scores
WHERE map_id IN (SELECT unnest($maps::INTEGER[])) GROUP BY ALL"""
    return Query(sql.strip(), {"maps": list(ids)})
