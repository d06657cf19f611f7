"""Neurons of stored maps that pass a filter: the maps that the filter is about, and the statement that answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from atlas.errors import UsageError
from atlas.query import paging
from atlas.query.amount import size_sql
from atlas.query.compare_maps import TOP
from atlas.query.concept_forms import replace_surface_forms, values_of
from atlas.query.decoded import tokens_of
from atlas.query.filter_sql import LOOKING, MEASURED, Condition, Members, of_map
from atlas.query.filters import EVERYTHING as ALL
from atlas.query.filters import IOU, OF_MAPS, Filter, as_json, conjuncts, is_glob, tests
from atlas.query.map_spec import COORDINATES, MapSpec, pin_notes
from atlas.query.no_such_map import no_such_map, require_iou, require_one_run, require_stored
from atlas.query.paging import SHOWN, Order
from atlas.query.resolve_maps import OPEN, StoredMap, narrow, versions_of
from atlas.query.selection_rules import BY_PLACE, EVERY, Rule, bound, placed, selected
from atlas.query.statements import Query, find_maps

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection

Selections = Callable[[str], Members]
"""A saved selection by its name."""

IDENTITY = ("concept", *(name for name in OPEN if name != "tap"))
"""The names that tell the maps of one model's weights apart, except for older versions."""

_NAMED = """named AS (
    SELECT m.map_id, mo.name AS model, coalesce(d.name, '') AS dataset, coalesce(c.name, '*') AS concept, m.method,
           m.source, m.target, m.reduce, m.tap, m.run_id AS run
    FROM maps m JOIN runs r USING (run_id) JOIN models mo ON mo.model_id = m.model_id
    LEFT JOIN concepts c ON c.concept_id = m.concept_id LEFT JOIN datasets d ON d.dataset_id = r.dataset_id
    WHERE m.map_id IN (SELECT unnest($maps::INTEGER[]))),
"""
_AGREEING = f""",
agreeing AS (
    SELECT s.layer, s.neuron, list(DISTINCT m.method ORDER BY m.method) AS methods
    FROM scores s JOIN maps m USING (map_id)
    WHERE s.map_id IN (SELECT unnest($peers::INTEGER[])) AND s.rank <= {size_sql("m.neurons", str(TOP))}
        AND {placed("s", "SELECT unnest($peers::INTEGER[])")}
    GROUP BY ALL)"""
"""Methods that have a neuron in the top 2 % of their whole map, however many neurons are requested."""

_OF_BEST = "LEFT JOIN agreeing a ON a.layer = best.layer AND a.neuron = best.neuron"
_CHANCE = """LEFT JOIN (SELECT layer, neuron, score FROM scores WHERE map_id = $null_part) chance
    ON chance.layer = best.layer AND chance.neuron = best.neuron
"""


@dataclass(frozen=True, slots=True)
class NeuronQuery:
    """A query for neurons. rule: only what it chooses from each whole map. sort: fields, with a minus sign for the
    largest first. limit: None for all. after: the cursor of the previous page. each: every neuron once, with the map in
    which it ranks best."""

    where: Filter = ALL
    rule: Rule | None = None
    sort: tuple[str, ...] = ()
    limit: int | None = 20
    after: str | None = None
    each: bool = False

    def where_is_of_maps(self) -> bool:
        """Whether the filter tests names of maps only, so that every neuron of those maps passes."""
        return all(test.field in OF_MAPS for test in tests(self.where))


@dataclass(frozen=True)
class ResolvedMaps:
    """The maps that a filter is about, for each the tests that remain for its neurons, and the selections it names."""

    chosen: tuple[StoredMap, ...]
    remaining: tuple[Filter | bool, ...]
    selections: Mapping[str, Members]

    @property
    def ids(self) -> list[int]:
        """The maps' ids, in order."""
        return [c["map_id"] for c in self.chosen]

    @cached_property
    def differing_names(self) -> list[str]:
        """The names in which the maps differ."""
        return [name for name in SHOWN if len({c[_column(name)] for c in self.chosen}) > 1]


def resolve(connection: Connection, tree: Filter, selections: Selections) -> ResolvedMaps:
    """The newest maps that a filter is about. Names that no test mentions are filled in, as for a single map; without a
    concept, these are the maps of every concept, but not those over all concepts.

    Raises:
        UsageError: there is none; the message says which name does not match.
    """
    tree, synonym_notes = replace_surface_forms(connection, tree)
    mentioned = {t.field for t in tests(tree)}
    spec = replace(required_names(tree), mentioned=" ".join(sorted(mentioned)))
    if spec.run is not None:
        require_one_run(connection, spec.run)
    members = {v: selections(v) for v in values_of(tree, "selection")}
    stored = find_maps(spec, versions="run" in mentioned).run(connection).to_pylist()
    if not stored:
        raise no_such_map(connection, spec)
    of_all = "*" in values_of(tree, "concept")
    remaining = {r["map_id"]: of_map(tree, r, members) for r in stored if of_all or r["concept"] != "*"}
    rows = [r for r in stored if remaining.get(r["map_id"], False) is not False]
    if not rows:
        raise UsageError(_no_map_left(stored, members))
    require_stored(connection, tree, rows)
    rows, notes = narrow(rows, [name for name in OPEN if name not in mentioned])
    if "fingerprint" not in mentioned and len({r["fingerprint"] for r in rows}) > 1:
        rows, more = _one_weights(rows)
        notes = [*notes, *more]
    identity = (*IDENTITY, *(_column(name) for name in ("run", "fingerprint", "tap") if name in mentioned))
    newest = {tuple(r[name] for name in identity): r["map_id"] for r in reversed(rows)}
    rows = [r for r in rows if r["map_id"] in set(newest.values())]
    require_iou(connection, tree, rows)
    defaults = (*synonym_notes, *pin_notes(spec), *notes, *(versions_of(rows) if "run" not in mentioned else ()))
    return ResolvedMaps(
        tuple(StoredMap(r, defaults) for r in rows), tuple(remaining[r["map_id"]] for r in rows), members
    )


def _no_map_left(stored: Sequence[Mapping[str, Any]], members: Mapping[str, Members]) -> str:
    stored_weights = {r["fingerprint"] for r in stored}
    for name, neurons in members.items():
        if neurons.fingerprint not in stored_weights:
            return f"the selection '{name}' has neurons of other weights ({neurons.fingerprint[:12]}) than these maps"
    return "no stored map matches (`atlas concepts` and `atlas runs` list what is stored)"


def _one_weights(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    """The maps of the newest weights of each model name: scores of different weights cannot be compared."""
    notes: list[str] = []
    kept: list[dict[str, Any]] = []
    for model in dict.fromkeys(r["model"] for r in rows):
        of_newest_weights, more = narrow([r for r in rows if r["model"] == model], ["fingerprint"])
        kept += of_newest_weights
        notes += more
    return [r for r in rows if r in kept], notes


def _column(name: str) -> str:
    return "run_id" if name == "run" else name


def find(
    query: NeuronQuery,
    maps: ResolvedMaps,
    sort_order: Order,
    peers: Sequence[int],
    null_ids: Sequence[int] | None = None,
    null_part: int | None = None,
) -> Query:
    """The statement that answers; it fetches one row more than the limit, to tell whether there are more.

    sort_order: of the rows (`order`). peers: where there is one map, the other methods' maps, whose tops tell which
    methods agree. null_ids: for each map, the map that z is measured against. null_part: where there is one map, that
    of what chance would give, for the column null_score.

    Raises:
        UsageError: the cursor belongs to another question.
    """
    differing = maps.differing_names
    z = any(name == "z" for name, _ in sort_order) or _uses_z(query)
    by_rank = query.limit is not None and sort_order[0] == ("rank", False)
    best_only = by_rank and query.after is None and _passes_all(query, maps)
    passing, condition = _passing(query, maps, z=z, first=best_only)
    after_last = ""
    if query.after is not None:
        last = paging.read(query.after, sort_order, query_digest(query, maps))
        after_last = f"\n    WHERE {paging.beyond(sort_order, last, condition.bind)}"
    one_map = len(maps.chosen) == 1
    with_peers = one_map and bool(peers)
    values = bound(query.rule or EVERY, maps.ids, null_ids or maps.ids, z=z) | condition.parameters
    values["limit"] = None if query.limit is None else query.limit + 1
    values |= {"first": (query.limit or 0) + 1} if best_only else {}
    values |= {"peers": list(peers)} if with_peers else {}
    values |= {"null_part": null_part} if null_part is not None else {}
    agreeing = _AGREEING if with_peers else ""
    methods = "coalesce(a.methods, [])" if with_peers else "[]::VARCHAR[]"
    chance = ["chance.score AS null_score"] if null_part is not None else []
    columns = [*differing, "best.score", *chance, "best.rank", "best.percentile", *(["best.z"] if z else [])]
    rows = (_best_of_each_neuron(z) if query.each else "passing") + (" JOIN named USING (map_id)" if differing else "")
    return Query(
        f"""
WITH {passing},
best AS (
    SELECT * FROM {rows}{after_last}
    ORDER BY {paging.order_sql(sort_order)}
    LIMIT $limit){agreeing}
SELECT best.component, best.layer, best.neuron, {", ".join(columns)},
       d.tokens[1:5] AS tokens{f", {methods} AS also_found_by" if one_map else ""}
FROM best
{tokens_of("best")}
{_CHANCE if chance else ""}{_OF_BEST if with_peers else ""}
ORDER BY {paging.order_sql(tuple((f"best.{n}" if n in paging.LAST else n, down) for n, down in sort_order))}""".strip(),
        values,
    )


def counts(query: NeuronQuery, maps: ResolvedMaps, null_ids: Sequence[int]) -> Query:
    """How many neurons of each map pass: the names in which the maps differ, passing, kept (stored scores), neurons."""
    differing = maps.differing_names
    passing, condition = _passing(query, maps, z=_uses_z(query), first=False)
    names = ", ".join(differing)
    return Query(
        f"""
WITH {passing},
counted AS (SELECT map_id, count(*) AS passing FROM passing GROUP BY map_id)
SELECT {f"{names}, " if differing else ""}coalesce(passing, 0) AS passing, kept, neurons
FROM maps LEFT JOIN counted USING (map_id){" JOIN named USING (map_id)" if differing else ""}
WHERE map_id IN (SELECT unnest($maps::INTEGER[]))
ORDER BY passing DESC{f", {names}" if differing else ""}""".strip(),
        bound(query.rule or EVERY, maps.ids, null_ids, z=_uses_z(query)) | condition.parameters,
    )


def _uses_z(query: NeuronQuery) -> bool:
    return any(test.field == "z" for test in tests(query.where))


def by_place(query: NeuronQuery) -> bool:
    """Whether the query asks for the best of each map, so that neurons without a place of their own do not count."""
    if query.rule is not None:
        return query.rule.name in BY_PLACE and query.rule != EVERY
    return query.limit is not None and not query.sort and query.where_is_of_maps()


def _passes_all(query: NeuronQuery, maps: ResolvedMaps) -> bool:
    """Whether every neuron of every map passes."""
    return query.rule is None and all(remaining is True for remaining in maps.remaining)


def _passing(query: NeuronQuery, maps: ResolvedMaps, *, z: bool, first: bool) -> tuple[str, Condition]:
    """Common table expressions, the last of them `passing`: what the rule chooses and the filter lets through."""
    condition = Condition(maps.selections)
    passes = condition.groups(list(zip(maps.ids, maps.remaining, strict=True)))
    fields = {test.field for test in tests(query.where)}
    measured = MEASURED if any(field.startswith("effect.") for field in fields) else ""
    measured += LOOKING if IOU in fields else ""
    named = _NAMED if maps.differing_names else ""
    chosen = selected(query.rule or EVERY, z=z, first=first, zeros=not by_place(query))
    return f"{measured}{named}{chosen},\npassing AS (\n    SELECT * FROM chosen WHERE {passes})", condition


def _best_of_each_neuron(z: bool) -> str:
    """For each neuron, its row in the map in which it ranks best; of equal ranks, the oldest map's."""
    # Rank and map packed into one number: its minimum gives both, in one pass without sorting.
    key = "rank::BIGINT << 32 | map_id"
    more = f", arg_min(z, {key}) AS z" if z else ""
    return f"""(
        SELECT model_id, component, layer, neuron, map_id, score, rank,
               100.0 * (neurons - rank + 1) / neurons AS percentile{", z" if z else ""}
        FROM (SELECT component, layer, neuron, (min({key}) & 4294967295)::INTEGER AS map_id,
                     (min({key}) >> 32)::INTEGER AS rank, arg_min(score, {key}) AS score{more}
              FROM passing GROUP BY model_id, component, layer, neuron)
        JOIN (SELECT map_id, model_id, neurons FROM maps) USING (map_id))"""


def order(query: NeuronQuery, maps: ResolvedMaps) -> Order:
    """See `atlas.query.paging.order`."""
    return paging.order(query.sort, maps.differing_names)


def query_digest(query: NeuronQuery, resolved: ResolvedMaps) -> str:
    """What a cursor belongs to: the filter, the rule, the order and the maps that answer."""
    identities = sorted([str(c[name]) for name in (*IDENTITY, "run_id")] for c in resolved.chosen)
    return paging.digest([as_json(query.where), str(query.rule), list(query.sort), query.each, identities])


def required_names(tree: Filter) -> MapSpec:
    """The names that every matching map must have: from equality tests that are not below `or` or `not`."""
    names: dict[str, str] = {}
    for test in conjuncts(tree):
        if test.op == "=" and test.field in COORDINATES and not is_glob(test.field, str(test.value)):
            names.setdefault(test.field, str(test.value))
    return MapSpec(**names)
