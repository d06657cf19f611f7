"""The one way from options and keywords, `--token bark` or `token="bark"`, to a filter and a query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from atlas.errors import UsageError
from atlas.neurons import parse_layers
from atlas.query.amount import rule_of
from atlas.query.filter_text import parse
from atlas.query.filters import And, Filter, Not, Or, Test, both, bounded, from_json
from atlas.query.find import NeuronQuery
from atlas.query.selection_rules import Rule


def build_filter(
    names: Mapping[str, str | None],
    *,
    layers: str | int | Sequence[int] | None = None,
    token: str | None = None,
    label: str | None = None,
    selection: str | None = None,
    effect: str | None = None,
    score: str | None = None,
    rank: str | None = None,
    percentile: str | None = None,
    z: str | None = None,
    where: str | Filter | Mapping[str, Any] | None = None,
) -> Filter:
    """The filter of what passes every given condition.

    names: of maps, such as {"concept": "dog", "method": None}. layers: `8-15` or numbers. token: a decoded one. label:
    `image`, or `miner:image`. selection: a saved one's name, or a set of several. effect: `suppression>0.5`.
    score, rank, percentile, z: comparisons such as `>0.5`. where: a filter, as text (`atlas.query.filter_text`), a tree
    (`atlas.query.filters`) or the tree's plain objects.

    Raises:
        UsageError: one of them cannot be read.
    """
    parts: list[Filter] = [Test(name, "=", value) for name, value in names.items() if value is not None]
    if layers is not None:
        if isinstance(layers, str):
            parse_layers(layers)  # its errors are about layers
        elif isinstance(layers, int):
            layers = (layers,)
        values = [v.strip() for v in layers.split(",")] if isinstance(layers, str) else list(layers)
        parts.append(Test("layer", "in", tuple(values)))
    for name, value in (("token", token), ("label", label), ("selection", selection)):
        parts += [Test(name, "=", value)] if value is not None else []
    for name, value in (("score", score), ("rank", rank), ("percentile", percentile), ("z", z)):
        parts += [_comparison(name, value, f"[[{name}=>=4]]")] if value is not None else []
    if effect is not None:
        parts.append(_comparison("effect.", effect, "[[effect=suppression>0.5]]"))
    if isinstance(where, Test | And | Or | Not):
        parts.append(where)
    elif where is not None:
        parts.append(parse(where) if isinstance(where, str) else from_json(where))
    return bounded(both(*parts))


def build_request(
    where: Filter,
    select: str | None = None,
    sort: str | Sequence[str] | None = None,
    top: int | str | None = None,
    after: str | None = None,
    each: bool = False,
) -> NeuronQuery:
    """A query for neurons: see `Atlas.query`.

    Raises:
        UsageError: select is not a rule.
    """
    rule = Rule.parse(select) if select else None
    limit = int(rule_of(top).amount) if top is not None and rule_of(top).name == "top" else None
    if top is not None and limit is None:
        if rule:
            raise UsageError(f"{top} of a map is a rule of its own; give [[select]] or [[top={top}]]")
        rule = rule_of(top)
    fields = [s.strip() for s in sort.split(",")] if isinstance(sort, str) else list(sort or ())
    return NeuronQuery(
        where, rule, tuple(f for f in fields if f), limit if limit is not None or rule else 20, after, each
    )


def _comparison(name: str, text: str, example: str) -> Test:
    test = parse(f"{name}{text}" if name.endswith(".") else f"{name} {text}")
    if not isinstance(test, Test):
        raise UsageError(f"'{text}' is more than one comparison; write for example {example}, or use [[where]]")
    return test
