"""Run a query or a vote: the neurons that it selects, and the statement that selected them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from atlas.errors import UsageError
from atlas.query.answer import Answer
from atlas.query.compare_maps import voted_neurons
from atlas.query.decoded import token_notes
from atlas.query.filter_sql import Condition
from atlas.query.filters import And, as_json, conjuncts, tests
from atlas.query.find import NeuronQuery, ResolvedMaps, Selections, by_place, counts, find, order, query_digest, resolve
from atlas.query.neuron_set import NeuronSet
from atlas.query.paging import cursor
from atlas.query.resolve_maps import StoredMap, null_map, null_part, peers, provenance_of
from atlas.query.selection_rules import EVERY, Rule, bound, selected

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection


def by_filter(connection: Connection, query: NeuronQuery, selections: Selections) -> NeuronSet:
    """The neurons that pass a filter: see `atlas.questions.query`."""
    if query.limit is not None and not 1 <= query.limit < 2**31 - 1:
        raise UsageError("[[top]] must be at least 1, and less than 2,147,483,647")
    return by_resolved_maps(connection, query, resolve(connection, query.where, selections))


def by_resolved_maps(connection: Connection, query: NeuronQuery, maps: ResolvedMaps) -> NeuronSet:
    """`by_filter` for maps that are already chosen."""
    nulls = _nulls(connection, query, maps)
    only_map = maps.chosen[0] if len(maps.chosen) == 1 else None
    sort_order = order(query, maps)
    statement = find(
        query,
        maps,
        sort_order,
        peers(connection, only_map) if only_map else (),
        [n["map_id"] for n in nulls],
        null_part(connection, only_map) if only_map else None,
    )
    rows = statement.run(connection)
    more = query.limit is not None and rows.num_rows > query.limit
    rows = rows.slice(0, query.limit) if more else rows
    by_rank = sort_order[0] == ("rank", False) and not query.each
    if not (by_rank and query.limit is not None and rows.num_rows == query.limit):  # else all of the best are stored
        require_within(connection, query, maps.chosen, nulls)
    record = provenance_of(maps.chosen, _rule_record(query, nulls))
    if short := _shortfall_note(query, maps, rows.num_rows):
        record["assumed"].append(short)
    if cut := [c for c in maps.chosen if c["kept"] < c["neurons"]]:
        record["assumed"].append(
            f"kept={cut[0]['kept']} (the best of {cut[0]['neurons']} neurons; the others are not stored)"
        )
    record["assumed"] += token_notes(connection, [c["model_id"] for c in maps.chosen])
    if more:
        record["next"] = cursor(sort_order, rows.slice(rows.num_rows - 1).to_pylist()[0], query_digest(query, maps))
    return NeuronSet(rows, record, sql=statement.explained())


def _shortfall_note(query: NeuronQuery, maps: ResolvedMaps, count: int) -> str | None:
    """A note where fewer neurons than were asked for have a place of their own; None otherwise."""
    rule = query.rule if query.rule is not None and query.rule.name == "top" else None
    requested = int(rule.amount) if rule else query.limit if by_place(query) else None
    if requested is None or len(maps.chosen) != 1 or not 0 < count < min(requested, maps.chosen[0]["kept"]):
        return None
    return f"top={count} (of {requested}: no other neuron of this map has a score above 0)"


def count_passing(connection: Connection, query: NeuronQuery, selections: Selections) -> Answer:
    """How many neurons of each map pass: see `atlas.questions.count`."""
    maps = resolve(connection, query.where, selections)
    nulls = _nulls(connection, query, maps)
    require_within(connection, query, maps.chosen, nulls)
    statement = counts(query, maps, [n["map_id"] for n in nulls])
    record = provenance_of(maps.chosen, _rule_record(query, nulls))
    if any(test.field == "token" for test in tests(query.where)):
        record["assumed"] += token_notes(connection, [c["model_id"] for c in maps.chosen])
    return Answer(statement.run(connection), record, sql=statement.explained())


def _nulls(connection: Connection, query: NeuronQuery, maps: ResolvedMaps) -> list[StoredMap]:
    """For each map, the map that z is measured against; refuses a rule that reaches below the stored scores."""
    rule = query.rule or (Rule("top", float(query.limit)) if query.limit and query.where_is_of_maps() else None)
    null_names = query.rule.null if query.rule and query.rule.name == "z" else {}
    nulls = [null_map(connection, c, null_names) for c in maps.chosen]
    require_kept(connection, rule, maps.chosen, nulls)
    return nulls


def _rule_record(query: NeuronQuery, nulls: Sequence[StoredMap]) -> dict[str, Any]:
    record: dict[str, Any] = {"top": query.limit, "where": as_json(query.where)}
    if query.rule is not None:
        record |= {"rule": str(query.rule), **({"null": nulls[0].summary()} if query.rule.name == "z" else {})}
    extras = (("sort", list(query.sort)), ("after", query.after), ("each", query.each))
    return record | {name: value for name, value in extras if value}


def require_kept(
    connection: Connection, rule: Rule | None, chosen: Sequence[StoredMap], nulls: Sequence[StoredMap]
) -> None:
    """Refuse a rule that may choose neurons whose scores the map does not store.

    Raises:
        UsageError: with the number of neurons that it stores.
    """
    for cut, null in ((c, n) for c, n in zip(chosen, nulls, strict=True) if c["kept"] < c["neurons"]):
        if rule is None:
            continue
        choosing = f"WITH {selected(rule)} SELECT count(*) FROM chosen"
        values = bound(rule, [cut["map_id"]], [null["map_id"]])
        count = connection.execute(choosing, values).fetchall()[0][0]
        exact = rule.name == "top" and rule.amount <= cut["kept"]
        if rule.name == "per_layer" or (count == cut["kept"] and not exact):
            raise _reaches_below(str(rule), cut)


def _reaches_below(what: str, cut: StoredMap) -> UsageError:
    return UsageError(
        f"{what} may need neurons that the map does not store: it has the best {cut['kept']} of {cut['neurons']}; "
        f"ask for fewer, limit the query to these ([[rank=<={cut['kept']}]]), or run `atlas ingest --keep all`"
    )


def require_within(
    connection: Connection, query: NeuronQuery, chosen: Sequence[StoredMap], nulls: Sequence[StoredMap]
) -> None:
    """Refuse a query whose answer may include neurons whose scores the map does not store: one that no rule, rank, or
    lower bound on score, percentile or z confines to the stored ones.

    Raises:
        UsageError: with the number of neurons that it stores.
    """
    lower = [t for t in conjuncts(query.where) if t.op in (">", ">=") and t.field in ("score", "percentile", "z")]
    ranks = [t for t in conjuncts(query.where) if t.field == "rank" and t.op in ("<", "<=", "=")]
    for cut, null in zip(chosen, nulls, strict=True):
        kept = cut["kept"]
        if kept == cut["neurons"] or query.rule is not None or any(t.value - (t.op == "<") <= kept for t in ranks):
            continue
        if lower:
            condition = Condition()
            z = any(t.field == "z" for t in lower)
            passes = condition.sql(And(tuple(lower)))
            choosing = f"WITH {selected(EVERY, z=z)} SELECT count(*) FROM chosen WHERE {passes}"
            values = bound(EVERY, [cut["map_id"]], [null["map_id"]], z=z) | condition.parameters
            if connection.execute(choosing, values).fetchall()[0][0] < kept:
                continue
        raise _reaches_below("this query", cut)


def by_vote(
    connection: Connection, chosen: Sequence[StoredMap], names: Sequence[str], rule: Rule, at_least: int | None
) -> NeuronSet:
    """The neurons that a rule chooses in several maps: see `atlas.questions.query`."""
    needed = len(chosen) // 2 + 1 if at_least is None else at_least
    if not 1 <= needed <= len(chosen):
        raise UsageError(f"[[agree]] is a number of maps, 1 to {len(chosen)} here, not {needed}")
    nulls = [null_map(connection, c, rule.null) if rule.name == "z" else c for c in chosen]
    require_kept(connection, rule, chosen, nulls)
    statement = voted_neurons(
        [c["map_id"] for c in chosen],
        names,
        rule=rule,
        null_ids=[n["map_id"] for n in nulls],
        at_least=needed,
    )
    rule_record: dict[str, Any] = {"rule": str(rule), "agree": needed, "of": list(names)}
    voted = NeuronSet(statement.run(connection), provenance_of(chosen, rule_record), sql=statement.explained())
    voted.provenance["assumed"] += token_notes(connection, [c["model_id"] for c in chosen])
    if at_least is None:
        voted.provenance["assumed"].append(f"agree={needed} (more than half of {len(chosen)})")
    return voted
