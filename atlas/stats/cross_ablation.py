"""What ablating each concept's neurons does to the questions about every other concept, and how specific that is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from atlas.query.map_spec import MapSpec
from atlas.query.resolve_maps import describe_default, narrow
from atlas.query.statements import Query
from atlas.stats.leaderboard import ACCURACY, effects_and_runs, of_metric

if TYPE_CHECKING:
    import numpy as np
    from duckdb import DuckDBPyConnection as Connection
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

ABOUT = "about:"
"""Begins the subset of an effect on the questions about one other concept, whose name follows."""

LEAST = 4
"""Concepts from which on a p-value is given: of 3 there are 6 permutations, and none can have a p-value below 1/6."""

EXACT = 8
"""Concepts up to which every permutation is tried: 40,320."""

DRAWS = 9_999
"""Random permutations of more concepts."""

SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("ablated", "asked", "source", "method", "dose", "reduce", "metric")]
    + [(name, pa.float64()) for name in ("effect", "random", "before")]
    + [("n", pa.int64()), ("seeds", pa.int64()), ("run_id", pa.string())]
)


@dataclass(frozen=True, slots=True)
class Dominance:
    """How much more an ablation does to its own concept than to others.

    own, others: the means of the effects on the diagonal of the matrix and beside it. dominance: own - others, below 0
    where a concept loses more than the others do. relative: the same as a share of own, 1 where only the own concept
    loses, 0 where all lose alike; None where the own concepts lose nothing. p_value: of `diagonal_dominance`; None of
    fewer than `LEAST` concepts. permutations: how many it was compared with.
    """

    own: float
    others: float | None
    dominance: float | None
    relative: float | None
    p_value: float | None
    permutations: int


def diagonal_dominance(effects: Floats) -> Dominance:
    """The dominance of the diagonal of a matrix of effects, and whether it could be an accident of the labels.

    effects: (concepts, concepts), of ablating the row's neurons on the column's questions; off the diagonal NaN where
    there was no question. The p-value is one-sided: the share of the permutations of the columns' concepts against the
    rows' whose dominance is as low as that of the true ones or lower. So it allows for concepts whose neurons do more,
    and for those whose questions suffer more, whatever is ablated. Up to `EXACT` concepts every permutation is tried;
    of more concepts `DRAWS` random ones, with the true one among them (Phipson and Smyth 2010).
    """
    import numpy as np

    count = len(effects)
    own, others = (float(value[0]) for value in _means(effects, np.arange(count)[None]))
    if math.isnan(others):
        return Dominance(own, None, None, None, None, 0)
    observed = own - others
    relative = observed / own if own < 0 else None
    if count < LEAST:
        return Dominance(own, others, observed, relative, None, 0)
    if exact := count <= EXACT:
        orders = np.array(list(permutations(range(count))))
    else:
        generator = np.random.default_rng(0)
        orders = generator.permuted(np.tile(np.arange(count), (DRAWS, 1)), axis=1)
    on, beside = _means(effects, orders)
    # A permutation that leaves nothing to compare counts against the claim.
    as_low = int((~(on - beside > observed + 1e-12)).sum())
    p_value = as_low / len(orders) if exact else (1 + as_low) / (1 + len(orders))
    return Dominance(own, others, observed, relative, p_value, len(orders))


def _means(effects: Floats, orders: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """The mean effect in the cells that each order picks, one in a row, and in all other cells; NaN of none. orders:
    (permutations, concepts)."""
    import numpy as np

    picked = effects[np.arange(len(effects)), orders]
    known = ~np.isnan(picked)
    total, cells = np.where(known, picked, 0.0).sum(1), known.sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        on = total / cells
        return on, (np.nansum(effects) - total) / (int((~np.isnan(effects)).sum()) - cells)


def matrix_of(rows: Sequence[Mapping[str, Any]], concepts: Sequence[str], name: str = "effect") -> Floats:
    """The values of a column by (ablated, asked), (concepts, concepts); NaN where there are none."""
    import numpy as np

    place = {concept: number for number, concept in enumerate(concepts)}
    values = np.full((len(concepts), len(concepts)), np.nan)
    for row in rows:
        if row["ablated"] in place and row["asked"] in place and row[name] is not None:
            values[place[row["ablated"]], place[row["asked"]]] = row[name]
    return values


def cross_ablation(
    connection: Connection, spec: MapSpec, dose: str | None, metric: str | None, notes: list[str]
) -> pa.Table:
    """One row for every ablated and asked concept of one evaluation: see `atlas.questions.cross_ablation`.

    spec: of one model and dataset. dose, metric: None: one is chosen; `notes` gets what was chosen and what else is
    stored.
    """
    evaluations = _evaluations(connection, spec, dose)
    if not evaluations:
        return pa.Table.from_pylist([], schema=SCHEMA)
    alike, noted = narrow(evaluations, ("method", "source", "reduce"))
    chosen = alike[0]
    notes += [*noted, *describe_default("dose", chosen["top"], dict.fromkeys(e["top"] for e in alike))]
    alike = [evaluation for evaluation in alike if evaluation["top"] == chosen["top"]]
    newest = max(alike, key=lambda evaluation: str(evaluation["finished_at"]))
    if newest["concepts"] < chosen["concepts"]:
        notes.append(
            f"run={chosen['run_id'][:8]} of {chosen['concepts']} concepts (a newer one, {newest['run_id'][:8]}, has "
            f"{newest['concepts']}; `atlas use --run {newest['run_id'][:8]}` chooses it)"
        )
    found, noted = of_metric(_rows(connection, spec, chosen), metric)
    notes += noted
    return pa.Table.from_pylist(found, schema=SCHEMA)


def _evaluations(connection: Connection, spec: MapSpec, dose: str | None) -> list[dict[str, Any]]:
    """What was ablated from which maps in which run, where the effects on each other concept are stored: of the most
    concepts first, then of the newest run, its largest dose."""
    every, values = effects_and_runs(spec)
    found = Query(
        f"""
WITH {every},
evaluations AS (
    SELECT method, target, reduce, source, top, run_id, finished_at, count(DISTINCT concept) AS concepts,
           max(try_cast(rtrim(top, '%') AS DOUBLE) * if(ends_with(top, '%'), neurons / 100, 1)) AS amount
    FROM effect_rows WHERE starts_with(subset, '{ABOUT}') GROUP BY ALL)
SELECT * FROM evaluations
ORDER BY concepts DESC, finished_at DESC, run_id, amount DESC NULLS LAST""".strip(),
        values,
    ).run(connection)
    return [
        row
        for row in found.to_pylist()
        if (spec.method is None or spec.method == row["method"].split("[")[0])
        and spec.target in (None, row["target"])
        and dose in (None, row["top"])
    ]


def _rows(connection: Connection, spec: MapSpec, chosen: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of one evaluation by every metric; own_before: the unedited model's mean on the concepts' own
    questions."""
    every, values = effects_and_runs(spec)
    names = ("run_id", "method", "reduce", "source", "top")
    conditions = " AND ".join(f"{name} = $chosen_{name}" for name in names)
    cells = ", ".join(
        f"max(value) FILTER (condition = '{condition}') AS {name}"
        for name, condition in (("before", "before"), ("edited", "edit"), ("drawn", "random"))
    )
    # Of log-probabilities `effect_rows` has the changes already, of accuracy the values.
    change = "{} - CASE WHEN metric = '" + ACCURACY + "' THEN before ELSE 0 END AS {}"
    found = Query(
        f"""
WITH {every},
cells AS (
    SELECT concept AS ablated,
           CASE WHEN subset = 'concept' THEN concept ELSE substr(subset, {len(ABOUT) + 1}) END AS asked,
           source, method, top AS dose, reduce, metric, subset, run_id, {cells}, max(examples) AS n,
           coalesce(max(seeds) FILTER (condition = 'random'), 0) AS seeds
    FROM effect_rows WHERE (subset = 'concept' OR starts_with(subset, '{ABOUT}')) AND {conditions} GROUP BY ALL)
SELECT * EXCLUDE (subset, edited, drawn), {change.format("edited", "effect")}, {change.format("drawn", "random")},
       avg(before) FILTER (subset = 'concept') OVER (PARTITION BY metric) AS own_before
FROM cells ORDER BY metric, ablated, asked""".strip(),
        values | {f"chosen_{name}": chosen[name] for name in names},
    ).run(connection)
    rows: list[dict[str, Any]] = found.to_pylist()
    return rows
