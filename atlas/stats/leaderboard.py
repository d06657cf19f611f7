"""Every method beside exact ablation: how well it ranks neurons, and what its neurons do when they are ablated.

Ranking: against a reference method's maps (`atlas.query.compare_maps.agreement`). Doing: the stored effects of `atlas
evaluate --method`, with as many random neurons of the same layers beside them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from atlas.query import compare_maps
from atlas.query.map_spec import OF_PINNED, MapSpec, active_pins
from atlas.query.resolve_maps import first_answer, preferred
from atlas.query.statements import Query

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
    [("method", pa.string()), ("source", pa.string()), ("reduce", pa.string())]
    + [("ranked", pa.int64()), ("ablated", pa.int64())]
    + [(name, pa.float64()) for name in ("correlation", "precision_1", "precision_2", "selectivity")]
    + [("effects", pa.list_(DONE))]
)

METHOD = "concat(e.method, CASE WHEN e.target <> 'text' THEN concat('[', e.target, ']') END)"
"""A method as it is called beside others: with the target of its maps, where that is not text."""

Rows = dict[tuple[str, str], dict[str, Any]]
"""(source, method) -> what was measured of it."""


def _every(which: MapSpec) -> tuple[str, dict[str, Any]]:
    """Two common table expressions: every effect of a survey that is meant, and which concepts each run asked."""
    columns = {"source": "e.source", "reduce": "e.reduce", "model": "m.name", "dataset": "d.name"}
    columns |= {"fingerprint": "m.fingerprint"}
    values = {name: value for name in columns if (value := getattr(which, name)) is not None}
    asked = "".join(f" AND {columns[name]} = ${name}" for name in values)
    if runs := active_pins(replace(which, model=None, dataset=None)).runs:
        asked += f" AND {OF_PINNED.format(kind='evaluate')}"
        values["pinned"] = list(runs)
    return (
        f"""every AS (
    SELECT {METHOD} AS method, e.dose AS top, e.reduce, e.source, e.target, m.layers * m.width AS neurons,
           e.subset, e.condition, e.value, e.concept, r.finished_at, r.run_id
    FROM effects e JOIN runs r USING (run_id) JOIN models m USING (model_id) JOIN datasets d USING (dataset_id)
    WHERE r.kind = 'evaluate' AND r.status = 'done' AND e.metric = 'accuracy' AND e.task = '*'
        AND e.method IS NOT NULL{asked}),
asked AS (
    SELECT method, top, reduce, source, run_id, finished_at, list(DISTINCT concept ORDER BY concept) AS concepts
    FROM every GROUP BY ALL)""",
        values,
    )


def surveyed(which: MapSpec) -> Query:
    """The effects of every method, number of neurons and reduction: mean accuracy over concepts, all tasks.

    Each number by the newest run that has it, of those that asked the same concepts as the run of the method that asked
    the most, of equals the newest: a later, smaller evaluation replaces nothing (`passed_over` tells of it).
    own_each, random_own_each: the accuracies of all concepts. neurons: of the model. Those of a survey have a method.
    """
    own_each, random_each = (
        f"list(value ORDER BY concept) FILTER (subset = 'concept' AND condition = '{condition}')"
        for condition in ("edit", "random")
    )
    every, values = _every(which)
    return Query(
        f"""
WITH {every},
alike AS (
    SELECT *, first_value(concepts) OVER (
        PARTITION BY method, reduce, source ORDER BY len(concepts) DESC, finished_at DESC, run_id, top) AS most
    FROM asked),
chosen AS (
    SELECT method, top, reduce, source, run_id FROM alike WHERE concepts = most
    QUALIFY row_number() OVER (PARTITION BY method, top, reduce, source ORDER BY finished_at DESC, run_id) = 1),
effect AS (SELECT * FROM every SEMI JOIN chosen USING (method, top, reduce, source, run_id))
SELECT method, top, source, reduce, avg(value) FILTER (subset = 'concept' AND condition = 'edit') AS own,
       {own_each} AS own_each, {random_each} AS random_own_each,
       avg(value) FILTER (subset = 'others' AND condition = 'edit') AS others,
       avg(value) FILTER (subset = 'concept' AND condition = 'random') AS random_own,
       avg(value) FILTER (subset = 'others' AND condition = 'random') AS random_others,
       avg(value) FILTER (subset = 'concept' AND condition = 'before') AS own_before,
       avg(value) FILTER (subset = 'others' AND condition = 'before') AS others_before,
       count(DISTINCT concept) AS concepts, max(neurons) AS neurons, any_value(target) AS target
FROM effect GROUP BY method, top, source, reduce
ORDER BY method, source, reduce, ends_with(top, '%') DESC, coalesce(try_cast(rtrim(top, '%') AS DOUBLE), 0)""".strip(),
        values,
    )


def passed_over(connection: Connection, which: MapSpec) -> list[str]:
    """What is said where a method's newest evaluation asked fewer concepts than the one that is shown."""
    every, values = _every(which)
    newest = Query(
        f"""
WITH {every}
SELECT source, method, max(len(concepts)) AS most, arg_max(run_id, (finished_at, run_id))[1:8] AS run,
       arg_max(len(concepts), (finished_at, run_id)) AS concepts
FROM asked GROUP BY source, method, reduce HAVING concepts < most ORDER BY ALL""".strip(),
        values,
    )
    return [
        f"effects of {r['method']} by {r['source']}: of {r['most']} concepts; a newer run, {r['run']}, asked "
        f"{r['concepts']} (`atlas use --run {r['run']}` takes it)"
        for r in newest.run(connection).to_pylist()
    ]


def of_effects(
    connection: Connection, which: MapSpec, ask: Callable[[MapSpec], pa.Table]
) -> tuple[pa.Table, tuple[str, ...]]:
    """`first_answer` to a question about stored effects, and what `passed_over` says of those that it is about."""
    taken = which

    def noting(one: MapSpec) -> pa.Table:
        nonlocal taken
        taken = one
        return ask(one)

    found, assumed = first_answer(connection, which, noting)
    return found, (*assumed, *passed_over(connection, taken))


def _smallest(row: dict[str, Any], name: str) -> float | None:
    """Minus or plus the mean of an effect over the numbers of neurons that all methods have: own accuracy is to be
    small."""
    found = [e[name] for e in row.get("common", []) if e[name] is not None]
    return sum(found) / len(found) * (-1 if name == "own" else 1) if found else None


REFERENCE = "ablation"
"""The method that the others are compared with: it measures what they estimate."""

ORDERS: dict[str, Callable[[dict[str, Any]], float | None]] = {
    "selectivity": lambda row: row["selectivity"],
    "suppression": lambda row: _smallest(row, "own"),
    "retention": lambda row: _smallest(row, "others"),
    "correlation": lambda row: row.get("correlation"),
}
"""What the methods can be ordered by."""


def leaderboard(connection: Connection, which: MapSpec, reference: str, by: str = "selectivity") -> pa.Table:
    """One row for every source and method, the best first: see `Atlas.leaderboard`.

    which: of one model and dataset.
    """
    rows: Rows = {}
    for found in _preferred(compare_maps.agreement(reference, which).run(connection).to_pylist()):
        kept = {name: found[name] for name in ("reduce", "correlation")}
        rows[found["source"], found["method"]] = {**kept, "ranked": found["maps"]}
    for found in compare_maps.precision(reference, which, list(PRECISION)).run(connection).to_pylist():
        row = rows.get((found["source"], found["method"]), {})
        if row.get("reduce") == found["reduce"]:
            row[PRECISION[found["share"]]] = found["precision"]
    _add_effects(rows, surveyed(which).run(connection).to_pylist())
    best = ORDERS[by]
    ordered = sorted(rows.items(), key=lambda item: (item[0][0], -_or(best(item[1])), item[0][1]))
    return pa.Table.from_pylist([{"method": m, "source": s, **row} for (s, m), row in ordered], schema=SCHEMA)


def _add_effects(rows: Rows, found: list[dict[str, Any]]) -> None:
    """Put the effects into their rows: of the row's reduction, or of the preferred one where nothing is ranked."""
    chosen = {(e["source"], e["method"]): e["reduce"] for e in _preferred(found)}
    for effect in found:
        key = (effect["source"], effect["method"])
        row = rows.setdefault(key, {"reduce": chosen[key]})
        if effect["reduce"] == row["reduce"]:
            row.setdefault("effects", []).append(effect)
    done = {key: {e["top"]: e for e in row.get("effects", []) if _complete(e)} for key, row in rows.items()}
    for (source, method), row in rows.items():
        each = [set(tops) for (other, _), tops in done.items() if other == source and tops]
        common = set.intersection(*each) if each else set()
        taken = row["common"] = [e for top, e in done[source, method].items() if top in common]
        row["selectivity"] = sum(e["others"] - e["own"] for e in taken) / len(taken) if taken else None
        row["ablated"] = min((e["concepts"] for e in taken or row.get("effects", [])), default=None)


def _complete(effect: dict[str, Any]) -> bool:
    return effect["own"] is not None and effect["others"] is not None


def _preferred(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each method and source, the rows of the reduction that questions take too."""
    order = {reduce: place for place, reduce in enumerate(preferred("reduce"))}
    best: dict[tuple[str, str], str] = {}
    for row in sorted(rows, key=lambda r: (order.get(r["reduce"], len(order)), r["reduce"])):
        best.setdefault((row["method"], row["source"]), row["reduce"])
    return [row for row in rows if best[row["method"], row["source"]] == row["reduce"]]


def _or(value: float | None) -> float:
    return -2.0 if value is None else value
