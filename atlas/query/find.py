"""Neurons of stored maps that pass a filter: which maps are meant, and the one statement that answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from atlas.errors import UsageError
from atlas.query import paging
from atlas.query.compare_maps import TOP, size_sql
from atlas.query.filter_sql import MEASURED, Condition, Members, of_map
from atlas.query.filters import EVERYTHING as ALL
from atlas.query.filters import OF_MAPS, And, Filter, Not, Or, Test, as_json, conjuncts, is_glob, tests
from atlas.query.map_spec import COORDINATES, MapSpec, pin_notes
from atlas.query.no_such_map import nothing, require_one_run, require_stored
from atlas.query.paging import SHOWN, Order
from atlas.query.resolve_maps import OPEN, StoredMap, narrowed, versions_of
from atlas.query.selection_rules import BY_PLACE, EVERY, Rule, bound, placed, selected
from atlas.query.statements import Query, find_maps, tokens_of

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection

Selections = Callable[[str], Members]
"""A saved selection by its name."""

IDENTITY = ("concept", *(name for name in OPEN if name != "tap"))
"""What tells the maps of one model's weights apart, but for older versions."""

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
"""Who agrees: methods that have a neuron in the top 2 % of their whole map, however many neurons are asked for."""


@dataclass(frozen=True, slots=True)
class NeuronQuery:
    """What is asked. rule: only what it chooses from each whole map. sort: fields, a minus sign before one for the
    largest first. limit: None for all. after: the cursor that the page before ended with. each: every neuron once, with
    the map in which it ranks best."""

    where: Filter = ALL
    rule: Rule | None = None
    sort: tuple[str, ...] = ()
    limit: int | None = 20
    after: str | None = None
    each: bool = False

    def where_is_of_maps(self) -> bool:
        """Whether every neuron of the maps that are meant passes."""
        return all(test.field in OF_MAPS for test in tests(self.where))


@dataclass(frozen=True)
class ResolvedMaps:
    """The maps that are meant, of each what the filter still asks of its neurons, and the selections it names."""

    chosen: tuple[StoredMap, ...]
    left: tuple[Filter | bool, ...]
    selections: Mapping[str, Members]

    @property
    def ids(self) -> list[int]:
        return [c["map_id"] for c in self.chosen]

    @cached_property
    def differ(self) -> list[str]:
        """The names in which the maps differ."""
        return [name for name in SHOWN if len({c[_column(name)] for c in self.chosen}) > 1]


def meant(connection: Connection, tree: Filter, selections: Selections) -> ResolvedMaps:
    """The newest maps that a filter is about. Names that no test mentions are filled in, as for a single map; without a
    concept, those of every concept are meant, but not those over all concepts.

    Raises:
        UsageError: there is none; the message says which name does not match.
    """
    tree, assumed = _synonyms(connection, tree)
    mentioned = {t.field for t in tests(tree)}
    which = replace(exactly(tree), mentioned=" ".join(sorted(mentioned)))
    if which.run is not None:
        require_one_run(connection, which.run)
    members = {v: selections(v) for v in _values(tree, "selection")}
    stored = find_maps(which, versions="run" in mentioned).run(connection).to_pylist()
    if not stored:
        raise nothing(connection, which)
    of_all = "*" in _values(tree, "concept")
    left = {r["map_id"]: of_map(tree, r, members) for r in stored if of_all or r["concept"] != "*"}
    rows = [r for r in stored if left.get(r["map_id"], False) is not False]
    if not rows:
        raise UsageError(_none_meant(stored, members))
    require_stored(connection, tree, rows)
    rows, notes = narrowed(rows, [name for name in OPEN if name not in mentioned])
    if "fingerprint" not in mentioned and len({r["fingerprint"] for r in rows}) > 1:
        rows, more = _one_weights(rows)
        notes = [*notes, *more]
    apart = (*IDENTITY, *(_column(name) for name in ("run", "fingerprint", "tap") if name in mentioned))
    first = {tuple(r[name] for name in apart): r["map_id"] for r in reversed(rows)}
    rows = [r for r in rows if r["map_id"] in set(first.values())]
    said = (*assumed, *pin_notes(which), *notes, *(versions_of(rows) if "run" not in mentioned else ()))
    return ResolvedMaps(tuple(StoredMap(r, said) for r in rows), tuple(left[r["map_id"]] for r in rows), members)


def _none_meant(stored: Sequence[Mapping[str, Any]], members: Mapping[str, Members]) -> str:
    there = {r["fingerprint"] for r in stored}
    for name, found in members.items():
        if found.fingerprint not in there:
            return f"the selection '{name}' is of neurons of other weights ({found.fingerprint[:12]}) than these maps"
    return "no stored map is meant by that (`atlas concepts` and `atlas runs` list what there is)"


def _one_weights(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    """Of each model's name the maps of its newest weights: numbers of two weights are not of one model."""
    notes: list[str] = []
    kept: list[dict[str, Any]] = []
    for model in dict.fromkeys(r["model"] for r in rows):
        mine, more = narrowed([r for r in rows if r["model"] == model], ["fingerprint"])
        kept += mine
        notes += more
    return [r for r in rows if r in kept], notes


def _column(name: str) -> str:
    return "run_id" if name == "run" else name


def find(
    ask: NeuronQuery,
    found: ResolvedMaps,
    by: Order,
    peers: Sequence[int],
    null_ids: Sequence[int] | None = None,
) -> Query:
    """The statement that answers; it asks for one row more than the limit, to tell whether there are more.

    found: the maps that are meant. by: the order of the rows (`order`). peers: of one map, the other methods' maps,
    whose tops say who agrees. null_ids: of each map, the map that z is measured against.

    Raises:
        UsageError: a cursor of another question.
    """
    differ = found.differ
    z = any(name == "z" for name, _ in by) or _z(ask)
    first = ask.limit is not None and by[0] == ("rank", False) and ask.after is None and _is_whole(ask, found)
    passing, condition = _passing(ask, found, z=z, first=first)
    behind = ""
    if ask.after is not None:
        last = paging.read(ask.after, by, question(ask, found))
        behind = f"\n    WHERE {paging.beyond(by, last, condition.bind)}"
    alone, agree = len(found.chosen) == 1, len(found.chosen) == 1 and bool(peers)
    values = bound(ask.rule or EVERY, found.ids, null_ids or found.ids, z=z) | condition.parameters
    values |= {"limit": None if ask.limit is None else ask.limit + 1} | (
        {"first": (ask.limit or 0) + 1} if first else {}
    )
    values |= {"peers": list(peers)} if agree else {}
    agreeing = _AGREEING if agree else ""
    methods = "coalesce(a.methods, [])" if agree else "[]::VARCHAR[]"
    columns = [*differ, "best.score", "best.rank", "best.percentile", *(["best.z"] if z else [])]
    return Query(
        f"""
WITH {passing},
best AS (
    SELECT * FROM {_each(z) if ask.each else "passing"}{" JOIN named USING (map_id)" if differ else ""}{behind}
    ORDER BY {paging.order_sql(by)}
    LIMIT $limit){agreeing}
SELECT best.component, best.layer, best.neuron, {", ".join(columns)},
       d.tokens[1:5] AS tokens{f", {methods} AS also_found_by" if alone else ""}
FROM best
{tokens_of("best")}
{"LEFT JOIN agreeing a ON a.layer = best.layer AND a.neuron = best.neuron" if agree else ""}
ORDER BY {paging.order_sql(tuple((f"best.{n}" if n in paging.LAST else n, down) for n, down in by))}""".strip(),
        values,
    )


def counts(ask: NeuronQuery, found: ResolvedMaps, null_ids: Sequence[int]) -> Query:
    """How many neurons of each map pass: what the maps differ in, passing, kept (all that could), neurons."""
    differ = found.differ
    passing, condition = _passing(ask, found, z=_z(ask), first=False)
    names = ", ".join(differ)
    return Query(
        f"""
WITH {passing},
counted AS (SELECT map_id, count(*) AS passing FROM passing GROUP BY map_id)
SELECT {f"{names}, " if differ else ""}coalesce(passing, 0) AS passing, kept, neurons
FROM maps LEFT JOIN counted USING (map_id){" JOIN named USING (map_id)" if differ else ""}
WHERE map_id IN (SELECT unnest($maps::INTEGER[]))
ORDER BY passing DESC{f", {names}" if differ else ""}""".strip(),
        bound(ask.rule or EVERY, found.ids, null_ids, z=_z(ask)) | condition.parameters,
    )


def _z(ask: NeuronQuery) -> bool:
    return any(test.field == "z" for test in tests(ask.where))


def by_place(ask: NeuronQuery) -> bool:
    """Whether the best of each map are asked for, so that neurons without a place of their own do not count."""
    if ask.rule is not None:
        return ask.rule.name in BY_PLACE and ask.rule != EVERY
    return ask.limit is not None and not ask.sort and ask.where_is_of_maps()


def _is_whole(ask: NeuronQuery, found: ResolvedMaps) -> bool:
    """Whether every neuron of every map passes."""
    return ask.rule is None and all(left is True for left in found.left)


def _passing(ask: NeuronQuery, found: ResolvedMaps, *, z: bool, first: bool) -> tuple[str, Condition]:
    """Common table expressions, the last of them `passing`: what the rule chooses and the filter lets through."""
    condition = Condition(found.selections)
    passes = condition.groups(list(zip(found.ids, found.left, strict=True)))
    effects = MEASURED if any(test.field.startswith("effect.") for test in tests(ask.where)) else ""
    named = _NAMED if found.differ else ""
    chosen = selected(ask.rule or EVERY, z=z, first=first, zeros=not by_place(ask))
    return f"{effects}{named}{chosen},\npassing AS (\n    SELECT * FROM chosen WHERE {passes})", condition


def _each(z: bool) -> str:
    """Of each neuron the row of the map in which it ranks best, of equal ranks the oldest map's."""
    # Rank and map in one number: the least of it names both, in one pass without sorting.
    key = "rank::BIGINT << 32 | map_id"
    more = f", arg_min(z, {key}) AS z" if z else ""
    return f"""(
        SELECT model_id, component, layer, neuron, map_id, score, rank,
               100.0 * (neurons - rank + 1) / neurons AS percentile{", z" if z else ""}
        FROM (SELECT component, layer, neuron, (min({key}) & 4294967295)::INTEGER AS map_id,
                     (min({key}) >> 32)::INTEGER AS rank, arg_min(score, {key}) AS score{more}
              FROM passing GROUP BY model_id, component, layer, neuron)
        JOIN (SELECT map_id, model_id, neurons FROM maps) USING (map_id))"""


def order(ask: NeuronQuery, found: ResolvedMaps) -> Order:
    """See `atlas.query.paging.order`."""
    return paging.order(ask.sort, found.differ)


def question(ask: NeuronQuery, found: ResolvedMaps) -> str:
    """What a cursor belongs to: the filter, the rule, the order and the maps that answer."""
    maps = sorted([str(c[name]) for name in (*IDENTITY, "run_id")] for c in found.chosen)
    return paging.digest([as_json(ask.where), str(ask.rule), list(ask.sort), ask.each, maps])


def exactly(tree: Filter) -> MapSpec:
    """The names that every map must have which the filter is about: plain tests that are not below `or` and `not`."""
    names: dict[str, str] = {}
    for test in conjuncts(tree):
        if test.op == "=" and test.field in COORDINATES and not is_glob(test.field, str(test.value)):
            names.setdefault(test.field, str(test.value))
    return MapSpec(**names)


def _values(tree: Filter, name: str) -> list[str]:
    found = [t.value if t.op == "in" else (t.value,) for t in tests(tree) if t.field == name]
    return list(dict.fromkeys(v for values in found for v in values))


def _synonyms(connection: Connection, tree: Filter) -> tuple[Filter, list[str]]:
    """The filter with concepts in place of their surface forms, and what was taken for what."""
    taken: dict[str, tuple[str, ...]] = {}
    query = """
SELECT DISTINCT name FROM concepts
WHERE list_contains(list_transform(forms, lambda f: lower(f)), lower($form)) ORDER BY name"""
    for value in _values(tree, "concept"):
        if is_glob("concept", value) or value == "*":
            continue
        known = connection.execute("SELECT 1 FROM concepts WHERE name = $name LIMIT 1", {"name": value}).fetchall()
        if not known:
            names = tuple(r[0] for r in connection.execute(query, {"form": value}).fetchall())
            taken |= {value: names} if names else {}
    notes = [f"concept={','.join(names)} ('{form}' is one of its forms)" for form, names in taken.items()]
    return (_renamed(tree, taken) if taken else tree), notes


def _renamed(tree: Filter, names: Mapping[str, tuple[str, ...]]) -> Filter:
    if isinstance(tree, Test):
        if tree.field != "concept":
            return tree
        values = tree.value if tree.op == "in" else (tree.value,)
        new = tuple(name for v in values for name in names.get(v, (v,)))
        if tree.op == "in" or len(new) == 1:
            return replace(tree, value=new if tree.op == "in" else new[0])
        found = Test("concept", "in", new)
        return found if tree.op == "=" else Not(found)
    if isinstance(tree, Not):
        return Not(_renamed(tree.part, names))
    parts = tuple(_renamed(part, names) for part in tree.parts)
    return And(parts) if isinstance(tree, And) else Or(parts)
