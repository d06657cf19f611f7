"""Sets of neurons: what a query returns, set algebra on it, the rules that choose them, and a matched control."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from atlas.choose import Chosen, null_map, peers, provenance
from atlas.compare import voted_neurons
from atlas.conditions import Condition
from atlas.errors import Unsupported, UsageError
from atlas.filters import And, as_json, conjuncts
from atlas.find import Ask, Meant, Selections, by_place, counts, find, meant, order, question
from atlas.neurons import LANGUAGE, Neuron
from atlas.pages import cursor
from atlas.queries import Query
from atlas.rules import EVERY, Rule, bound, selected

if TYPE_CHECKING:
    import pandas as pd
    from duckdb import DuckDBPyConnection as Connection

LAYERS = pa.schema(
    [("component", pa.string()), ("layer", pa.int32()), ("count", pa.int64())]
    + [(name, pa.float64()) for name in ("share", "cumulative", "enrichment")]
)


class NeuronSet:
    """Neurons of one model in an order, each with the columns of the question that found it.

    provenance: what was asked and of which runs; set algebra keeps both sides'.
    """

    def __init__(self, rows: pa.Table, provenance: Mapping[str, Any]):
        self._rows = rows
        self.provenance = dict(provenance)

    @cached_property
    def neurons(self) -> tuple[Neuron, ...]:
        """The addresses, in order."""
        columns = (self._rows[name].to_pylist() for name in ("component", "layer", "neuron"))
        return tuple(Neuron(*address) for address in zip(*columns, strict=True))

    def __iter__(self) -> Iterator[Neuron]:
        return iter(self.neurons)

    def __len__(self) -> int:
        return int(self._rows.num_rows)

    def __contains__(self, neuron: object) -> bool:
        return neuron in self.neurons

    def __repr__(self) -> str:
        shown = ", ".join(str(n) for n in self.neurons[:4])
        return f"NeuronSet({len(self)} neurons: {shown}{', ...' if len(self) > 4 else ''})"

    def __and__(self, other: NeuronSet) -> NeuronSet:
        """The neurons in both, in this one's order and with its columns."""
        return self._keep("and", other, lambda n, theirs: n in theirs)

    def __sub__(self, other: NeuronSet) -> NeuronSet:
        """The neurons of this one that the other does not have."""
        return self._keep("minus", other, lambda n, theirs: n not in theirs)

    def __or__(self, other: NeuronSet) -> NeuronSet:
        """This one's neurons, then those that only the other has; columns that both have."""
        extra = other - self
        common = [name for name in self._rows.column_names if name in extra._rows.column_names]
        rows = pa.concat_tables([self._rows.select(common), extra._rows.select(common)], promote_options="permissive")
        return NeuronSet(rows, self._together("or", other))

    def _keep(self, word: str, other: NeuronSet, test: Callable[[Neuron, frozenset[Neuron]], bool]) -> NeuronSet:
        theirs = frozenset(other.neurons)
        mask = [test(n, theirs) for n in self.neurons]
        return NeuronSet(self._rows.filter(pa.array(mask, pa.bool_())), self._together(word, other))

    def _together(self, word: str, other: NeuronSet) -> dict[str, Any]:
        mine, theirs = self.provenance.get("fingerprint"), other.provenance.get("fingerprint")
        if mine != theirs or mine is None:
            raise UsageError("these neurons belong to two models; choose one with model=...")
        return {"fingerprint": mine, "set": word, "left": self.provenance, "right": other.provenance}

    def to_arrow(self) -> pa.Table:
        """component, layer, neuron and the question's own columns."""
        return self._rows

    def to_pandas(self) -> pd.DataFrame:
        """The same as a pandas frame.

        Raises:
            Unsupported: pandas is not installed.
        """
        if importlib.util.find_spec("pandas") is None:
            raise Unsupported("to_pandas needs pandas (pip install pandas); to_arrow does not")
        return self._rows.to_pandas()


def neuron_set(neurons: Sequence[Neuron], provenance: Mapping[str, Any]) -> NeuronSet:
    """Neurons with no column but their address."""
    columns = {
        "component": pa.array([n.component for n in neurons], pa.string()),
        "layer": pa.array([n.layer for n in neurons], pa.int16()),
        "neuron": pa.array([n.index for n in neurons], pa.int32()),
    }
    return NeuronSet(pa.table(columns), provenance)


def everything_but(neurons: NeuronSet, layers: int, width: int) -> NeuronSet:
    """Every neuron of the language model that is not in the set: MINER's complementary mask (Huang et al. 2024).

    layers, width: of the model.
    """
    taken = frozenset(neurons.neurons)
    left = [(y, i) for y in range(layers) for i in range(width) if Neuron(LANGUAGE, y, i) not in taken]
    columns = {
        "component": pa.array([LANGUAGE] * len(left), pa.string()),
        "layer": pa.array([y for y, _ in left], pa.int16()),
        "neuron": pa.array([i for _, i in left], pa.int32()),
    }
    origin = {"fingerprint": neurons.provenance["fingerprint"], "set": "complement", "of": neurons.provenance}
    return NeuronSet(pa.table(columns), origin)


def layer_distribution(neurons: Iterable[Neuron], layers: int) -> pa.Table:
    """How neurons lie over the layers of their model, one row a layer, also where there is none.

    layers: of the language model; another component has as many rows as its last neuron needs. count: neurons of the
    layer. share: of all of them. cumulative: the share of this layer and those before. enrichment: share over 1 /
    layers, what neurons drawn evenly over the layers would give.
    """
    counts = Counter((n.component, n.layer) for n in neurons)
    rows = []
    for component in sorted({c for c, _ in counts}) or [LANGUAGE]:
        deep = max([layer + 1 for c, layer in counts if c == component] + [layers if component == LANGUAGE else 0])
        total = sum(count for (c, _), count in counts.items() if c == component)
        before = 0
        for layer in range(deep):
            count = counts[component, layer]
            before += count
            row = {"component": component, "layer": layer, "count": count}
            shares = {"share": count, "cumulative": before, "enrichment": count * deep}
            rows.append(row | {name: value / total if total else None for name, value in shares.items()})
    return pa.Table.from_pylist(rows, schema=LAYERS)


def by_filter(connection: Connection, ask: Ask, selections: Selections) -> tuple[NeuronSet, Query]:
    """The neurons that pass a filter, and the statement that found them: see `Atlas.query`."""
    if ask.limit is not None and not 1 <= ask.limit < 2**31 - 1:
        raise UsageError("--top must be at least 1, and less than two thousand million")
    return of_meant(connection, ask, meant(connection, ask.where, selections))


def of_meant(connection: Connection, ask: Ask, found: Meant) -> tuple[NeuronSet, Query]:
    """`by_filter` where the maps are chosen already."""
    nulls = _nulls(connection, ask, found)
    alone = found.chosen[0] if len(found.chosen) == 1 else None
    statement = find(ask, found, peers(connection, alone) if alone else (), [n["map_id"] for n in nulls])
    rows = statement.run(connection)
    more = ask.limit is not None and rows.num_rows > ask.limit
    rows = rows.slice(0, ask.limit) if more else rows
    by_rank = order(ask, found)[0] == ("rank", False) and not ask.each
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
        whole["next"] = cursor(order(ask, found), rows.slice(rows.num_rows - 1).to_pylist()[0], question(ask, found))
    return NeuronSet(rows, whole), statement


def _short_of(ask: Ask, found: Meant, count: int) -> str | None:
    """What is said where fewer neurons have a place of their own than were asked for."""
    rule = ask.rule if ask.rule is not None and ask.rule.name == "top" else None
    asked = int(rule.amount) if rule else ask.limit if by_place(ask) else None
    if asked is None or len(found.chosen) != 1 or not 0 < count < min(asked, found.chosen[0]["kept"]):
        return None
    return f"top={count} (of {asked}: no other neuron of this map has a score above 0)"


def count_passing(connection: Connection, ask: Ask, selections: Selections) -> tuple[pa.Table, Query, dict[str, Any]]:
    """How many neurons of each map pass, the statement, and what the maps are: see `Atlas.count`."""
    found = meant(connection, ask.where, selections)
    nulls = _nulls(connection, ask, found)
    require_within(connection, ask, found.chosen, nulls)
    statement = counts(ask, found, [n["map_id"] for n in nulls])
    return statement.run(connection), statement, provenance(found.chosen, _said(ask, nulls))


def _nulls(connection: Connection, ask: Ask, found: Meant) -> list[Chosen]:
    """Of each map that is meant the map that z is measured against; refuses what reaches below the kept scores."""
    rule = ask.rule or (Rule("top", float(ask.limit)) if ask.limit and ask.where_is_of_maps() else None)
    against = ask.rule.null if ask.rule and ask.rule.name == "z" else {}
    nulls = [null_map(connection, c, against) for c in found.chosen]
    require_kept(connection, rule, found.chosen, nulls)
    return nulls


def _said(ask: Ask, nulls: Sequence[Chosen]) -> dict[str, Any]:
    said: dict[str, Any] = {"top": ask.limit, "where": as_json(ask.where)}
    if ask.rule is not None:
        said |= {"rule": str(ask.rule), **({"null": nulls[0].summary()} if ask.rule.name == "z" else {})}
    given = (("sort", list(ask.sort)), ("after", ask.after), ("each", ask.each))
    return said | {name: value for name, value in given if value}


def require_kept(connection: Connection, rule: Rule | None, chosen: Sequence[Chosen], nulls: Sequence[Chosen]) -> None:
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


def _reaches_below(what: str, cut: Chosen) -> UsageError:
    return UsageError(
        f"{what} may reach below what the map keeps, its best {cut['kept']} of {cut['neurons']} neurons; "
        f"ask for fewer, among these alone (--rank '<={cut['kept']}'), or ingest with --keep all"
    )


def require_within(connection: Connection, ask: Ask, chosen: Sequence[Chosen], nulls: Sequence[Chosen]) -> None:
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
    connection: Connection, chosen: Sequence[Chosen], names: Sequence[str], rule: Rule, at_least: int | None
) -> tuple[NeuronSet, Query]:
    """The neurons that a rule chooses in several maps, and the statement that found them: see `Atlas.vote`."""
    needed = len(chosen) // 2 + 1 if at_least is None else at_least
    if not 1 <= needed <= len(chosen):
        raise UsageError(f"--agree is a number of maps, 1 to {len(chosen)} here, not {needed}")
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
    found = NeuronSet(question.run(connection), provenance(chosen, said))
    if at_least is None:
        found.provenance["assumed"].append(f"agree={needed} (more than half of {len(chosen)})")
    return found, question
