"""Every method beside exact ablation: how well it ranks neurons, and what its neurons do when they are ablated.

Ranking: against a reference method's maps (`atlas.compare.agreement`). Doing: the stored effects of `atlas evaluate
--method`, with as many random neurons of the same layers beside them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from atlas import compare
from atlas.choose import PREFERRED
from atlas.queries import Query, Which

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection

PRECISION = {0.01: "precision_1", 0.02: "precision_2"}
"""At which shares of the neurons a method's top is compared with the reference's."""

DONE = pa.struct(
    [("top", pa.string())]
    + [(name, pa.float64()) for name in ("own", "others", "random_own", "random_others", "own_before", "others_before")]
    + [("concepts", pa.int64())]
)
SCHEMA = pa.schema(
    [("method", pa.string()), ("source", pa.string()), ("reduce", pa.string()), ("concepts", pa.int64())]
    + [(name, pa.float64()) for name in ("correlation", "precision_1", "precision_2", "selectivity")]
    + [("effects", pa.list_(DONE))]
)


def surveyed(which: Which) -> Query:
    """The newest measured effect of every method and number of neurons: mean accuracy over concepts, all tasks."""
    parts, values = [], {}
    for name, column in (("source", "e.source"), ("model", "m.name"), ("dataset", "d.name"), ("concept", "e.concept")):
        if (value := getattr(which, name)) is not None:
            parts.append(f" AND {column} = ${name}")
            values[name] = value
    return Query(
        f"""
WITH effect AS (
    SELECT split_part(e.edit, ':', 1) AS method, split_part(e.edit, ':', 2) AS top, e.source, e.subset, e.condition,
           e.value, e.concept
    FROM effects e JOIN runs r USING (run_id) JOIN models m USING (model_id) JOIN datasets d USING (dataset_id)
    WHERE r.kind = 'evaluate' AND r.status = 'done' AND e.metric = 'accuracy' AND e.task = '*'
        AND e.edit LIKE '%:%:%'{"".join(parts)}
    QUALIFY row_number() OVER (
        PARTITION BY m.model_id, e.edit, e.source, e.subset, e.condition ORDER BY r.finished_at DESC, r.run_id) = 1)
SELECT method, top, source, avg(value) FILTER (subset = 'concept' AND condition = 'edit') AS own,
       avg(value) FILTER (subset = 'others' AND condition = 'edit') AS others,
       avg(value) FILTER (subset = 'concept' AND condition = 'random') AS random_own,
       avg(value) FILTER (subset = 'others' AND condition = 'random') AS random_others,
       avg(value) FILTER (subset = 'concept' AND condition = 'before') AS own_before,
       avg(value) FILTER (subset = 'others' AND condition = 'before') AS others_before,
       count(DISTINCT concept) AS concepts
FROM effect GROUP BY method, top, source
ORDER BY method, source, coalesce(try_cast(rtrim(top, '%') AS DOUBLE), 0)""".strip(),
        values,
    )


def leaderboard(connection: Connection, which: Which, reference: str = "ablation") -> pa.Table:
    """One row for every source and method, the most selective first: see `Atlas.leaderboard`."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for found in _preferred(compare.agreement(reference, which).run(connection).to_pylist()):
        kept = {name: found[name] for name in ("reduce", "correlation")}
        rows[found["source"], found["method"]] = {**kept, "concepts": found["maps"]}
    for found in _preferred(compare.precision(reference, which, list(PRECISION)).run(connection).to_pylist()):
        rows.setdefault((found["source"], found["method"]), {})[PRECISION[found["share"]]] = found["precision"]
    for effect in surveyed(which).run(connection).to_pylist():
        rows.setdefault((effect["source"], effect["method"]), {}).setdefault("effects", []).append(effect)
    for row in rows.values():
        done = [e for e in row.get("effects", []) if e["own"] is not None and e["others"] is not None]
        row["selectivity"] = sum(e["others"] - e["own"] for e in done) / len(done) if done else None
    ordered = sorted(rows.items(), key=lambda item: (item[0][0], -_or(item[1]["selectivity"]), item[0][1]))
    return pa.Table.from_pylist([{"method": m, "source": s, **row} for (s, m), row in ordered], schema=SCHEMA)


def _preferred(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each method and source, the rows of the reduction that questions take too."""
    order = {reduce: place for place, reduce in enumerate(PREFERRED["reduce"])}
    best: dict[tuple[str, str], str] = {}
    for row in sorted(rows, key=lambda r: order.get(r["reduce"], len(order))):
        best.setdefault((row["method"], row["source"]), row["reduce"])
    return [row for row in rows if best[row["method"], row["source"]] == row["reduce"]]


def _or(value: float | None) -> float:
    return -2.0 if value is None else value
