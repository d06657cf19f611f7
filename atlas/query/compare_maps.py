"""Questions about several maps: one question, one function, one SQL statement, one Arrow table.

A share of n neurons is a whole number everywhere: rounded (a half up), at least one; see `size`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from atlas.query.amount import size_sql
from atlas.query.decoded import tokens_of
from atlas.query.map_spec import MapSpec
from atlas.query.selection_rules import Rule, bound, placed, selected
from atlas.query.statements import Query

if TYPE_CHECKING:
    import pyarrow as pa

TOP = 0.02
"""The top share of the neurons that agreement compares."""

# What a neuron is in each of the maps $maps, in their order; NULL where a map does not score it.
_PLACED = """placed AS (
    SELECT k.layer, k.neuron, any_value(m.component) AS component, any_value(m.model_id) AS model_id,
           list(s.rank ORDER BY a.place) AS ranks, list(s.score ORDER BY a.place) AS scores,
           avg(coalesce(100.0 * (m.neurons - s.rank + 1) / m.neurons, 0)) AS percentile
    FROM kept k CROSS JOIN given_maps a JOIN maps m USING (map_id)
    LEFT JOIN scores s ON s.map_id = a.map_id AND s.layer = k.layer AND s.neuron = k.neuron
    GROUP BY k.layer, k.neuron)"""
_GIVEN_MAPS = (
    "given_maps AS (SELECT unnest($maps::INTEGER[]) AS map_id, generate_subscripts($maps::INTEGER[], 1) AS place)"
)


_PAIRED = "SELECT unnest([reference_map, method_map]) FROM pairs"
"""The maps of the common table expression `pairs`."""


OF_ALL, OF_FIRST, OF_ANY = "all", "first", "any"
"""In the top of which maps neurons are: of every map, of the first and no other, of any."""

_IN_TOPS = {
    OF_ALL: "count(*) = len($maps::INTEGER[])",
    OF_FIRST: "count(*) = 1 AND min(a.place) = 1",
    OF_ANY: "TRUE",
}


def top_neurons(map_ids: Sequence[int], *, top: int, of: str = OF_ALL) -> Query:
    """The neurons in the top of maps. of: of which, see `OF_ALL`.

    Their ranks and scores are in the order of the maps, NULL where a map does not score the neuron. Best first by the
    sum of the ranks; of the first alone, by its rank.
    """
    by_first = of == OF_FIRST
    return Query(
        f"""
WITH {_GIVEN_MAPS},
kept AS (
    SELECT s.layer, s.neuron FROM scores s JOIN given_maps a USING (map_id)
    WHERE s.rank <= $top AND {placed("s")} GROUP BY s.layer, s.neuron HAVING {_IN_TOPS[of]}),
{_PLACED}
SELECT p.component, p.layer, p.neuron, p.ranks, p.scores, d.tokens[1:5] AS tokens
FROM placed p
{tokens_of("p")}
ORDER BY {"p.ranks[1]" if by_first else "list_sum(p.ranks)"}, p.layer, p.neuron""".strip(),
        {"maps": list(map_ids), "top": top},
    )


def score_correlation(first: int, second: int) -> Query:
    """Spearman's correlation of two maps' scores over the neurons that both score, ties at their mean rank; NULL of
    fewer than 10 neurons or of constant scores."""
    return Query(
        """
WITH placed AS (
    SELECT a.score AS first, b.score AS second, row_number() OVER (ORDER BY a.score) AS first_place,
           row_number() OVER (ORDER BY b.score) AS second_place
    FROM scores a JOIN scores b ON b.layer = a.layer AND b.neuron = a.neuron AND b.map_id = $second
    WHERE a.map_id = $first),
ranked AS (
    SELECT avg(first_place) OVER (PARTITION BY first) AS first, avg(second_place) OVER (PARTITION BY second) AS second
    FROM placed)
SELECT CASE WHEN count(*) >= 10 AND stddev_pop(first) * stddev_pop(second) > 0 THEN corr(first, second) END
           AS correlation, count(*) AS neurons
FROM ranked""".strip(),
        {"first": first, "second": second},
    )


def one_column_each(table: pa.Table, lists: Mapping[str, str], names: Sequence[str]) -> pa.Table:
    """The table with each list column split into one column for each name: `ranks` becomes `rank_image`, `rank_text`.

    lists: list column -> prefix of the new columns' names.
    """
    import pyarrow as pa

    for column, prefix in lists.items():
        at = table.column_names.index(column)
        kind, values = table.schema.field(column).type.value_type, table[column].to_pylist()
        table = table.remove_column(at)
        for place, name in enumerate(names):
            table = table.add_column(at + place, f"{prefix}_{name}", pa.array([v[place] for v in values], kind))
    return table


def voted_neurons(
    map_ids: Sequence[int], names: Sequence[str], *, rule: Rule, null_ids: Sequence[int], at_least: int
) -> Query:
    """The neurons that the rule chooses in at least `at_least` of the maps.

    votes: in how many. found_by: the names of those maps. ranks: in all of them, in order, NULL where a map does not
    score the neuron. percentile: the mean over all of them, 0 where it is not scored. Most votes first, then by
    percentile.
    """
    return Query(
        f"""
WITH {_GIVEN_MAPS},
{selected(rule)},
kept AS (
    SELECT c.layer, c.neuron, count(*) AS votes, list(($names::VARCHAR[])[a.place] ORDER BY a.place) AS agree
    FROM chosen c JOIN given_maps a USING (map_id)
    GROUP BY c.layer, c.neuron HAVING count(*) >= $at_least),
{_PLACED}
SELECT p.component, p.layer, p.neuron, k.votes, k.agree AS found_by, p.ranks, p.percentile, d.tokens[1:5] AS tokens
FROM placed p JOIN kept k USING (layer, neuron)
{tokens_of("p")}
ORDER BY k.votes DESC, p.percentile DESC, p.layer, p.neuron""".strip(),
        {**bound(rule, map_ids, null_ids), "names": list(names), "at_least": at_least},
    )


def chosen_neurons(map_ids: Sequence[int], rule: Rule, null_ids: Sequence[int] | None = None) -> Query:
    """The neurons that a rule chooses in each of several maps: map_id, layer, neuron, rank; unordered."""
    sql = f"WITH {selected(rule)}\nSELECT map_id, layer, neuron, rank FROM chosen"
    return Query(sql, bound(rule, map_ids, null_ids or map_ids))


def scored_by_both(first: int, second: int) -> Query:
    """The neurons that two maps both score: layer, neuron."""
    sql = """
SELECT a.layer, a.neuron FROM scores a JOIN scores b ON a.layer = b.layer AND a.neuron = b.neuron
WHERE a.map_id = $first AND b.map_id = $second"""
    return Query(sql.strip(), {"first": first, "second": second})


def map_scores(map_id: int) -> Query:
    """Every neuron that a map scores, best first."""
    return Query("SELECT layer, neuron, score FROM scores WHERE map_id = $map_id ORDER BY rank", {"map_id": map_id})


_JOB_FIELDS = (
    "examples",
    "concepts",
    "tasks",
    "dataset_revision",
    "tap",
    "layers",
    "occurrences",
    "tokens",
    "mentions",
)
_RUN_INPUTS = "CASE WHEN (r.job::JSON ->> '$.examples') IS NOT NULL THEN concat_ws('|', {}) END".format(
    ", ".join(f"coalesce(r.job::JSON ->> '$.{name}', '')" for name in _JOB_FIELDS)
)
"""What a run computed its maps from, besides the methods: the examples, by their content, and what was sought in them.
NULL where a run does not record it."""

_COMPARABLE = "(a.run_id = b.run_id OR (a.model_id = b.model_id AND a.inputs = b.inputs))"
_BEST = "{one}.examples DESC, a.run_id = b.run_id DESC, {one}.finished_at DESC, {one}.map_id DESC"


def method_pairs(spec: MapSpec) -> Query:
    """Comparable pairs of maps of two methods: alike in all but the method, and of one run, or of two with the same
    inputs.

    Of several versions, the one with the most examples, then one of the same run, then the newest. Pairs of one concept
    are adjacent.
    Maps that do not keep all scores are left out, here and below.
    """
    where, values = spec.where()
    return Query(
        f"""
WITH chosen AS (
    SELECT m.*, c.name AS concept, d.name AS dataset, r.finished_at, {_RUN_INPUTS} AS inputs
    FROM maps m JOIN runs r USING (run_id) JOIN models mo ON mo.model_id = m.model_id
    JOIN concepts c ON c.concept_id = m.concept_id LEFT JOIN datasets d ON d.dataset_id = r.dataset_id
    WHERE m.kept = m.neurons AND {where})
SELECT a.map_id AS first, b.map_id AS second, a.method, b.method AS other, a.concept, a.source, a.target, a.reduce,
       a.component, [a.run_id, b.run_id] AS runs
FROM chosen a JOIN chosen b ON {_COMPARABLE} AND a.concept = b.concept AND a.source = b.source
    AND a.target = b.target AND a.reduce = b.reduce AND a.component = b.component AND a.method < b.method
QUALIFY row_number() OVER (
    PARTITION BY a.model_id, a.dataset, a.concept, a.method, b.method, a.source, a.target, a.reduce, a.component
    ORDER BY {_BEST.format(one="a")}) = 1
ORDER BY a.source, a.target, a.reduce, a.concept, a.run_id, first, second""".strip(),
        values,
    )


def _with_reference(where: str) -> str:
    """CTEs that end in `pairs`: a method's map and the reference method's map of the same concept, source, target and
    reduction, of one run or of two with the same inputs; which of several versions: see `method_pairs`."""
    return f"""
WITH chosen AS (
    SELECT m.*, c.name AS concept, d.name AS dataset, r.finished_at, mo.layers * mo.width AS total,
           {_RUN_INPUTS} AS inputs
    FROM maps m JOIN runs r USING (run_id) JOIN models mo ON mo.model_id = m.model_id
    JOIN concepts c ON c.concept_id = m.concept_id LEFT JOIN datasets d ON d.dataset_id = r.dataset_id
    WHERE m.kept = m.neurons AND {where}),
pairs AS (
    SELECT a.map_id AS reference_map, b.map_id AS method_map, b.method, b.source, b.reduce, b.total,
           [a.run_id, b.run_id] AS runs
    FROM chosen a JOIN chosen b ON {_COMPARABLE} AND a.concept = b.concept AND a.source = b.source
        AND a.target = b.target AND a.reduce = b.reduce AND a.component = b.component
    WHERE a.method = $reference AND b.method <> $reference
    QUALIFY row_number() OVER (
        PARTITION BY b.model_id, b.dataset, b.concept, b.method, b.source, b.target, b.reduce, b.component
        ORDER BY {_BEST.format(one="b")}) = 1)"""


def agreement(reference: str, spec: MapSpec) -> Query:
    """How well each method's ranking follows a reference method's, over the same concepts, sources and reductions.

    Only maps of the same examples are compared: of one run, or of two with the same inputs. Both measures are over the
    neurons that both maps score (neurons: the fewest; total: of the model), and means over the maps that both methods
    have. correlation: Spearman's, tied
    scores sharing their mean rank; NULL where a map is constant or fewer than ten neurons are common, and such maps are
    left out of the mean. correlations: those of all maps. overlap: share of the reference's top 2 % (at least one
    neuron) that the method's top 2 % has. runs: of the maps.
    """
    where, values = spec.where()
    return Query(
        f"""{_with_reference(where)},
placed AS (  -- places among the neurons that both maps score
    SELECT p.*, a.score AS reference_score, b.score AS method_score,
           row_number() OVER (PARTITION BY p.method_map ORDER BY a.rank) AS reference_place,
           row_number() OVER (PARTITION BY p.method_map ORDER BY b.rank) AS method_place,
           {placed("a", _PAIRED)} AS reference_placed, {placed("b", _PAIRED)} AS method_placed,
           {size_sql("count(*) OVER (PARTITION BY p.method_map)", "$share::DOUBLE")} AS top
    FROM pairs p JOIN scores a ON a.map_id = p.reference_map
    JOIN scores b ON b.map_id = p.method_map AND b.layer = a.layer AND b.neuron = a.neuron),
ranked AS (
    SELECT *, avg(reference_place) OVER (PARTITION BY method_map, reference_score) AS reference_rank,
           avg(method_place) OVER (PARTITION BY method_map, method_score) AS method_rank FROM placed),
each AS (
    SELECT method, source, reduce,
           CASE WHEN count(*) >= 10 AND stddev_pop(reference_rank) * stddev_pop(method_rank) > 0
                THEN corr(reference_rank, method_rank) END AS correlation,
           count(*) FILTER (reference_place <= top AND reference_placed AND method_place <= top AND method_placed)
               / nullif(count(*) FILTER (reference_place <= top AND reference_placed), 0) AS overlap,
           count(*) AS neurons, any_value(total) AS total, any_value(runs) AS runs
    FROM ranked GROUP BY method_map, method, source, reduce)
SELECT method, source, reduce, avg(correlation) AS correlation, stddev_samp(correlation) AS spread,
       list(correlation ORDER BY correlation) FILTER (correlation IS NOT NULL) AS correlations,
       avg(overlap) AS overlap, count(*) AS maps, min(neurons) AS neurons, any_value(total) AS total,
       list_sort(list_distinct(flatten(list(runs)))) AS runs
FROM each GROUP BY method, source, reduce ORDER BY source, reduce, correlation DESC NULLS LAST, method""".strip(),
        {**values, "reference": reference, "share": TOP},
    )


def precision(reference: str, spec: MapSpec, shares: Sequence[float]) -> Query:
    """For each share of the model's neurons (at least one), how many of a method's top are in the reference's top of
    the same size; a map with fewer neurons is judged by those it has, and NULL where the reference lacks a score of one
    of them. Means over maps."""
    where, values = spec.where()
    return Query(
        f"""{_with_reference(where)},
tops AS (
    SELECT *, {size_sql("total", "share")} AS k
    FROM pairs CROSS JOIN (SELECT unnest($shares::DOUBLE[]) AS share)),
each AS (
    SELECT t.method, t.source, t.reduce, t.share,
           CASE WHEN count(a.layer) = count(*) THEN count(*) FILTER (a.rank <= t.k AND a.placed) / count(*) END AS hits
    FROM tops t JOIN scores b ON b.map_id = t.method_map AND b.rank <= t.k AND {placed("b", _PAIRED)}
    LEFT JOIN (SELECT *, {placed("a", _PAIRED)} AS placed FROM scores a) a
        ON a.map_id = t.reference_map AND a.layer = b.layer AND a.neuron = b.neuron
    GROUP BY t.method_map, t.method, t.source, t.reduce, t.share)
SELECT method, source, reduce, share, CASE WHEN count(hits) = count(*) THEN avg(hits) END AS precision,
       count(*) AS maps
FROM each GROUP BY method, source, reduce, share ORDER BY source, reduce, share, method""".strip(),
        {**values, "reference": reference, "shares": list(shares)},
    )
