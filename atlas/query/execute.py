"""Run a request or a vote: the neurons that it selects, and the statement that selected them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from atlas.errors import UsageError
from atlas.query.answer import Answer
from atlas.query.compare_maps import voted_neurons
from atlas.query.filter_sql import Condition
from atlas.query.filters import And, as_json, conjuncts
from atlas.query.find import NeuronQuery, ResolvedMaps, Selections, by_place, counts, find, meant, order, question
from atlas.query.neuron_set import NeuronSet
from atlas.query.paging import cursor
from atlas.query.resolve_maps import StoredMap, null_map, peers, provenance
from atlas.query.selection_rules import EVERY, Rule, bound, selected

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection


def by_filter(connection: Connection, ask: NeuronQuery, selections: Selections) -> NeuronSet:
    """The neurons that pass a filter: see `atlas.questions.query`."""
    if ask.limit is not None and not 1 <= ask.limit < 2**31 - 1:
        raise UsageError("[[top]] must be at least 1, and less than two thousand million")
    return of_meant(connection, ask, meant(connection, ask.where, selections))


def of_meant(connection: Connection, ask: NeuronQuery, found: ResolvedMaps) -> NeuronSet:
    """`by_filter` where the maps are chosen already."""
    nulls = _nulls(connection, ask, found)
    alone = found.chosen[0] if len(found.chosen) == 1 else None
    by = order(ask, found)
    statement = find(ask, found, by, peers(connection, alone) if alone else (), [n["map_id"] for n in nulls])
    rows = statement.run(connection)
    more = ask.limit is not None and rows.num_rows > ask.limit
    rows = rows.slice(0, ask.limit) if more else rows
    by_rank = by[0] == ("rank", False) and not ask.each
    if not (by_rank and ask.limit is not None and rows.num_rows == ask.limit):  # else the best are all among the kept
        require_within(connection, ask, found.chosen, nulls)
    whole = provenance(found.chosen, _said(ask, nulls))
    if short := _short_of(ask, found, rows.num_rows):
        whole["assumed"].append(short)
    if cut := [c for c in found.chosen if c["kept"] < c["neurons"]]:
        whole["assumed"].append(
            f"kept={cut[0]['kept']} (the best of {cut[0]['neurons']} neurons; others are not stored)"
        )
    if more:
        whole["next"] = cursor(by, rows.slice(rows.num_rows - 1).to_pylist()[0], question(ask, found))
    return NeuronSet(rows, whole, sql=statement.explained())


def _short_of(ask: NeuronQuery, found: ResolvedMaps, count: int) -> str | None:
    """What is said where fewer neurons have a place of their own than were asked for."""
    rule = ask.rule if ask.rule is not None and ask.rule.name == "top" else None
    asked = int(rule.amount) if rule else ask.limit if by_place(ask) else None
    if asked is None or len(found.chosen) != 1 or not 0 < count < min(asked, found.chosen[0]["kept"]):
        return None
    return f"top={count} (of {asked}: no other neuron of this map has a score above 0)"


def count_passing(connection: Connection, ask: NeuronQuery, selections: Selections) -> Answer:
    """How many neurons of each map pass: see `atlas.questions.count`."""
    found = meant(connection, ask.where, selections)
    nulls = _nulls(connection, ask, found)
    require_within(connection, ask, found.chosen, nulls)
    statement = counts(ask, found, [n["map_id"] for n in nulls])
    return Answer(statement.run(connection), provenance(found.chosen, _said(ask, nulls)), sql=statement.explained())


def _nulls(connection: Connection, ask: NeuronQuery, found: ResolvedMaps) -> list[StoredMap]:
    """Of each map that is meant the map that z is measured against; refuses what reaches below the kept scores."""
    rule = ask.rule or (Rule("top", float(ask.limit)) if ask.limit and ask.where_is_of_maps() else None)
    against = ask.rule.null if ask.rule and ask.rule.name == "z" else {}
    nulls = [null_map(connection, c, against) for c in found.chosen]
    require_kept(connection, rule, found.chosen, nulls)
    return nulls


def _said(ask: NeuronQuery, nulls: Sequence[StoredMap]) -> dict[str, Any]:
    said: dict[str, Any] = {"top": ask.limit, "where": as_json(ask.where)}
    if ask.rule is not None:
        said |= {"rule": str(ask.rule), **({"null": nulls[0].summary()} if ask.rule.name == "z" else {})}
    given = (("sort", list(ask.sort)), ("after", ask.after), ("each", ask.each))
    return said | {name: value for name, value in given if value}


def require_kept(
    connection: Connection, rule: Rule | None, chosen: Sequence[StoredMap], nulls: Sequence[StoredMap]
) -> None:
    """Refuse a rule that reaches below what a map keeps.

    Raises:
        UsageError: with how many neurons it keeps.
    """
    for cut, null in ((c, n) for c, n in zip(chosen, nulls, strict=True) if c["kept"] < c["neurons"]):
        if rule is None:
            continue
        choice = f"WITH {selected(rule)} SELECT count(*) FROM chosen"
        values = bound(rule, [cut["map_id"]], [null["map_id"]])
        count = connection.execute(choice, values).fetchall()[0][0]
        exact = rule.name == "top" and rule.amount <= cut["kept"]
        if rule.name == "per_layer" or (count == cut["kept"] and not exact):
            raise _reaches_below(str(rule), cut)


def _reaches_below(what: str, cut: StoredMap) -> UsageError:
    return UsageError(
        f"{what} may reach below what the map keeps, its best {cut['kept']} of {cut['neurons']} neurons; "
        f"ask for fewer, among these alone (--rank '<={cut['kept']}'), or ingest with --keep all"
    )


def require_within(
    connection: Connection, ask: NeuronQuery, chosen: Sequence[StoredMap], nulls: Sequence[StoredMap]
) -> None:
    """Refuse a question whose answer may be below what a map keeps: one that no rule, rank, or least score, percentile
    or z holds to what is kept.

    Raises:
        UsageError: with how many neurons it keeps.
    """
    lower = [t for t in conjuncts(ask.where) if t.op in (">", ">=") and t.field in ("score", "percentile", "z")]
    ranks = [t for t in conjuncts(ask.where) if t.field == "rank" and t.op in ("<", "<=", "=")]
    for cut, null in zip(chosen, nulls, strict=True):
        kept = cut["kept"]
        if kept == cut["neurons"] or ask.rule is not None or any(t.value - (t.op == "<") <= kept for t in ranks):
            continue
        if lower:
            condition = Condition()
            z = any(t.field == "z" for t in lower)
            passes = condition.sql(And(tuple(lower)))
            choice = f"WITH {selected(EVERY, z=z)} SELECT count(*) FROM chosen WHERE {passes}"
            values = bound(EVERY, [cut["map_id"]], [null["map_id"]], z=z) | condition.parameters
            if connection.execute(choice, values).fetchall()[0][0] < kept:
                continue
        raise _reaches_below("the question", cut)


def by_vote(
    connection: Connection, chosen: Sequence[StoredMap], names: Sequence[str], rule: Rule, at_least: int | None
) -> NeuronSet:
    """The neurons that a rule chooses in several maps: see `atlas.questions.query`."""
    needed = len(chosen) // 2 + 1 if at_least is None else at_least
    if not 1 <= needed <= len(chosen):
        raise UsageError(f"[[agree]] is a number of maps, 1 to {len(chosen)} here, not {needed}")
    nulls = [null_map(connection, c, rule.null) if rule.name == "z" else c for c in chosen]
    require_kept(connection, rule, chosen, nulls)
    question = voted_neurons(
        [c["map_id"] for c in chosen],
        names,
        rule=rule,
        null_ids=[n["map_id"] for n in nulls],
        at_least=needed,
    )
    said: dict[str, Any] = {"rule": str(rule), "agree": needed, "of": list(names)}
    found = NeuronSet(question.run(connection), provenance(chosen, said), sql=question.explained())
    if at_least is None:
        found.provenance["assumed"].append(f"agree={needed} (more than half of {len(chosen)})")
    return found
