"""Every method compared with exact ablation: how well it ranks neurons, and the effect of ablating its neurons.

Ranking: against a reference method's maps (`atlas.query.compare_maps.agreement`). Effects: those stored by `atlas
evaluate --method`, with as many random neurons of the same layers as control.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from atlas.query import compare_maps
from atlas.query.map_spec import OF_PINNED, MapSpec, active_pins
from atlas.query.resolve_maps import first_answer, preferred
from atlas.query.statements import Query
from atlas.stats.intervals import UNBOUNDED, of_values
from atlas.stats.method_pairs import with_intervals

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection

PRECISION = {0.01: "precision_1", 0.02: "precision_2"}
"""The shares of the neurons at which a method's top is compared with the reference's."""

EFFECT = pa.struct(
    [("top", pa.string())]
    + [(name, pa.float64()) for name in ("own", "others", "random_own", "random_others", "own_before", "others_before")]
    + [("concepts", pa.int64())]
    + [(f"{name}_{end}", pa.float64()) for name in ("own", "random_own") for end in ("low", "high")]
)
SCHEMA = pa.schema(
    [("method", pa.string()), ("source", pa.string()), ("reduce", pa.string()), ("metric", pa.string())]
    + [("ranked", pa.int64()), ("ablated", pa.int64())]
    + [(name, pa.float64()) for name in ("correlation", "correlation_low", "correlation_high")]
    + [(name, pa.float64()) for name in ("precision_1", "precision_2", "selectivity")]
    + [("effects", pa.list_(EFFECT)), ("runs", pa.list_(pa.string()))]
)

ACCURACY, LOG_PROBABILITY = METRICS = ("accuracy", "log_probability")
"""What is measured of words: the share of right ones, and the mean log-probability of all."""

MOVES = 0.5
"""The accuracy of the unedited model on a concept's questions from which on accuracy shows what an ablation does: below
it, most answers are wrong already, and only their log-probability can fall."""

METHOD = "concat(e.method, CASE WHEN e.target <> 'text' THEN concat('[', e.target, ']') END)"
"""A method's name in tables: with the target of its maps, where that is not text."""

Rows = dict[tuple[str, str], dict[str, Any]]
"""(source, method) -> its measurements."""


def effects_and_runs(spec: MapSpec) -> tuple[str, dict[str, Any]]:
    """Two common table expressions, and their parameters: every matching effect of a survey, and the concepts of each
    run."""
    columns = {"source": "e.source", "reduce": "e.reduce", "model": "m.name", "dataset": "d.name"}
    columns |= {"fingerprint": "m.fingerprint", "concept": "e.concept"}
    values = {name: value for name in columns if (value := getattr(spec, name)) is not None}
    conditions = "".join(f" AND {columns[name]} = ${name}" for name in values)
    if runs := active_pins(replace(spec, model=None, dataset=None)).runs:
        conditions += f" AND {OF_PINNED.format(kind='evaluate')}"
        values["pinned"] = list(runs)
    return (
        f"""effect_rows AS (
    SELECT {METHOD} AS method, e.dose AS top, e.reduce, e.source, e.target, m.layers * m.width AS neurons,
           e.subset, e.condition, e.concept, e.examples, e.seeds,
           r.finished_at, r.run_id, e.metric,
           CASE WHEN e.metric = '{ACCURACY}' OR e.condition = 'before' THEN e.value ELSE e.value - max(e.value)
               FILTER (e.condition = 'before') OVER (PARTITION BY r.run_id, e.edit, e.source, e.subset, e.metric)
           END AS value
    FROM effects e JOIN runs r USING (run_id) JOIN models m USING (model_id) JOIN datasets d USING (dataset_id)
    WHERE r.kind = 'evaluate' AND r.status = 'done' AND e.metric IN {METRICS} AND e.task = '*'
        AND e.method IS NOT NULL{conditions}),
survey_runs AS (
    SELECT method, top, reduce, source, run_id, finished_at, list(DISTINCT concept ORDER BY concept) AS concepts
    FROM effect_rows GROUP BY ALL)""",
        values,
    )


def surveyed(spec: MapSpec) -> Query:
    """The effects of every method, number of neurons, reduction and metric, means over concepts, all tasks: the
    accuracy, and the change of the words' mean log-probability (`before` is the log-probability itself).

    Each number is from the newest run that has it, among those with the same concepts as the method's run with the most
    concepts (of equals the newest): a later, smaller evaluation replaces nothing (`passed_over` reports it).
    own_each, random_own_each: the values of all concepts. own_less_random_each, others_less_random_each: of each
    concept, the effect of its neurons less that of as many random ones, where both were measured. neurons: of the
    model.
    """
    own_each, random_each = (
        f"list(value ORDER BY concept) FILTER (subset = 'concept' AND condition = '{condition}')"
        for condition in ("edit", "random")
    )
    own_less, others_less = (
        f"list(less_random ORDER BY concept) FILTER (subset = '{subset}' AND condition = 'edit' AND less_random IS NOT "
        "NULL)"
        for subset in ("concept", "others")
    )
    every, values = effects_and_runs(spec)
    return Query(
        f"""
WITH {every},
alike AS (
    SELECT *, first_value(concepts) OVER (
        PARTITION BY method, reduce, source ORDER BY len(concepts) DESC, finished_at DESC, run_id, top) AS most
    FROM survey_runs),
chosen AS (
    SELECT method, top, reduce, source, run_id FROM alike WHERE concepts = most
    QUALIFY row_number() OVER (PARTITION BY method, top, reduce, source ORDER BY finished_at DESC, run_id) = 1),
effect AS (
    SELECT *, value - max(value) FILTER (condition = 'random') OVER (
        PARTITION BY method, top, source, reduce, metric, concept, subset) AS less_random
    FROM effect_rows SEMI JOIN chosen USING (method, top, reduce, source, run_id))
SELECT method, top, source, reduce, metric, avg(value) FILTER (subset = 'concept' AND condition = 'edit') AS own,
       {own_each} AS own_each, {random_each} AS random_own_each,
       {own_less} AS own_less_random_each, {others_less} AS others_less_random_each,
       avg(value) FILTER (subset = 'others' AND condition = 'edit') AS others,
       avg(value) FILTER (subset = 'concept' AND condition = 'random') AS random_own,
       avg(value) FILTER (subset = 'others' AND condition = 'random') AS random_others,
       avg(value) FILTER (subset = 'concept' AND condition = 'before') AS own_before,
       avg(value) FILTER (subset = 'others' AND condition = 'before') AS others_before,
       count(DISTINCT concept) FILTER (subset = 'concept') AS concepts, max(neurons) AS neurons,
       any_value(target) AS target, any_value(run_id) AS run_id
FROM effect GROUP BY method, top, source, reduce, metric
ORDER BY method, source, reduce, metric, ends_with(top, '%') DESC,
         coalesce(try_cast(rtrim(top, '%') AS DOUBLE), 0)""".strip(),
        values,
    )


def over_concepts(effect: Mapping[str, Any]) -> dict[str, float | None]:
    """The 95 % intervals over concepts of a row of `surveyed`: own_low, own_high, random_own_low, random_own_high."""
    bounds = (0.0, 1.0) if effect["metric"] == ACCURACY else UNBOUNDED
    intervals = {name: of_values(effect[f"{name}_each"] or [], bounds) for name in ("own", "random_own")}
    return {f"{name}_{end}": getattr(found, end) for name, found in intervals.items() for end in ("low", "high")}


def of_metric(rows: list[dict[str, Any]], metric: str | None) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of `surveyed` by one metric for each source, and notes on those that were chosen here: accuracy where
    the unedited model is right on at least MOVES of the concepts' questions, else log-probability."""
    chosen, notes = {}, []
    for source in dict.fromkeys(row["source"] for row in rows):
        before = [row["own_before"] for row in rows if (row["source"], row["metric"]) == (source, ACCURACY)]
        known = [value for value in before if value is not None]
        right = sum(known) / len(known) if known else 1.0
        chosen[source] = metric or (ACCURACY if right >= MOVES else LOG_PROBABILITY)
        if metric is None and chosen[source] == LOG_PROBABILITY:
            notes.append(f"metric=log_probability of {source} (the unedited model has {right:.0%} right)")
    return [row for row in rows if row["metric"] == chosen[row["source"]]], notes


def passed_over(connection: Connection, spec: MapSpec) -> list[str]:
    """Notes on methods whose newest evaluation has fewer concepts than the one that is shown."""
    every, values = effects_and_runs(spec)
    newest = Query(
        f"""
WITH {every}
SELECT source, method, max(len(concepts)) AS most, arg_max(run_id, (finished_at, run_id))[1:8] AS run,
       arg_max(len(concepts), (finished_at, run_id)) AS concepts
FROM survey_runs GROUP BY source, method, reduce HAVING concepts < most ORDER BY ALL""".strip(),
        values,
    )
    return [
        f"effects of {r['method']} by {r['source']}: of {r['most']} concepts; a newer run, {r['run']}, has "
        f"{r['concepts']} (`atlas use --run {r['run']}` chooses it)"
        for r in newest.run(connection).to_pylist()
    ]


def of_effects(
    connection: Connection, spec: MapSpec, ask: Callable[[MapSpec], pa.Table]
) -> tuple[pa.Table, tuple[str, ...]]:
    """`first_answer` to a question about stored effects, with the notes of `passed_over` on them."""
    answered_spec = spec

    def noting(candidate: MapSpec) -> pa.Table:
        nonlocal answered_spec
        answered_spec = candidate
        return ask(candidate)

    table, defaults = first_answer(connection, spec, noting)
    return table, (*defaults, *passed_over(connection, answered_spec))


def _smallest(row: dict[str, Any], name: str) -> float | None:
    """The mean of an effect over the numbers of neurons that all methods have, negated for `own`, which should be
    small; None without any."""
    values = [e[name] for e in row.get("common", []) if e[name] is not None]
    return sum(values) / len(values) * (-1 if name == "own" else 1) if values else None


REFERENCE = "ablation"
"""The method that the others are compared with: it measures what they estimate."""

ORDERS: dict[str, Callable[[dict[str, Any]], float | None]] = {
    "selectivity": lambda row: row["selectivity"],
    "suppression": lambda row: _smallest(row, "own"),
    "retention": lambda row: _smallest(row, "others"),
    "correlation": lambda row: row.get("correlation"),
}
"""The values by which methods can be ordered."""


def leaderboard(
    connection: Connection,
    spec: MapSpec,
    reference: str,
    by: str = "selectivity",
    metric: str | None = None,
    notes: list[str] | None = None,
) -> pa.Table:
    """One row for every source and method, the best first: see `Atlas.leaderboard`; and the runs of its numbers.

    spec: of one model and dataset. metric: of the effects; None: see `of_metric`, whose notes are added to `notes`.
    """
    rows: Rows = {}
    agreement = with_intervals(compare_maps.agreement(reference, spec).run(connection))
    for stored in _preferred(agreement.to_pylist()):
        ranking = {name: stored[name] for name in ("reduce", "correlation", "correlation_low", "correlation_high")}
        rows[stored["source"], stored["method"]] = {**ranking, "ranked": stored["maps"], "runs": [*stored["runs"]]}
    for stored in compare_maps.precision(reference, spec, list(PRECISION)).run(connection).to_pylist():
        row = rows.get((stored["source"], stored["method"]), {})
        if row.get("reduce") == stored["reduce"]:
            row[PRECISION[stored["share"]]] = stored["precision"]
    effects, chosen = of_metric(surveyed(spec).run(connection).to_pylist(), metric)
    if notes is not None:
        notes += chosen
    _add_effects(rows, effects)
    best = ORDERS[by]
    ordered = sorted(rows.items(), key=lambda item: (item[0][0], -_or_least(best(item[1])), item[0][1]))
    return pa.Table.from_pylist([{"method": m, "source": s, **row} for (s, m), row in ordered], schema=SCHEMA)


def _add_effects(rows: Rows, stored_effects: list[dict[str, Any]]) -> None:
    """Add the effects to their rows: of the row's reduction, or of the preferred one where the row has no ranking."""
    chosen = {(e["source"], e["method"]): e["reduce"] for e in _preferred(stored_effects)}
    for effect in stored_effects:
        key = (effect["source"], effect["method"])
        row = rows.setdefault(key, {"reduce": chosen[key]})
        if effect["reduce"] == row["reduce"]:
            row["metric"] = effect["metric"]
            row.setdefault("runs", []).append(effect["run_id"])
            row.setdefault("effects", []).append(effect | over_concepts(effect))
    by_amount = {key: {e["top"]: e for e in row.get("effects", []) if _complete(e)} for key, row in rows.items()}
    for (source, method), row in rows.items():
        amounts = [set(tops) for (other_source, _), tops in by_amount.items() if other_source == source and tops]
        common = set.intersection(*amounts) if amounts else set()
        compared = row["common"] = [e for top, e in by_amount[source, method].items() if top in common]
        row["selectivity"] = sum(e["others"] - e["own"] for e in compared) / len(compared) if compared else None
        row["ablated"] = min((e["concepts"] for e in compared or row.get("effects", [])), default=None)


def _complete(effect: dict[str, Any]) -> bool:
    return effect["own"] is not None and effect["others"] is not None


def _preferred(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each method and source, the rows of the reduction that questions prefer."""
    order = {reduce: place for place, reduce in enumerate(preferred("reduce"))}
    best: dict[tuple[str, str], str] = {}
    for row in sorted(rows, key=lambda r: (order.get(r["reduce"], len(order)), r["reduce"])):
        best.setdefault((row["method"], row["source"]), row["reduce"])
    return [row for row in rows if best[row["method"], row["source"]] == row["reduce"]]


def _or_least(value: float | None) -> float:
    return -2.0 if value is None else value
