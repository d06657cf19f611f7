"""Filters of maps and neurons: a tree of tests, the same on the command line, in Python and as JSON.

    Test("layer", "in", ("8-15", 20))             {"field": "layer", "op": "in", "value": ["8-15", 20]}
    And((a, b))  Or((a, b))  Not(a)               {"and": [a, b]}  {"or": [a, b]}  {"not": a}

The text form is in `atlas.query.filter_text`, the SQL in `atlas.query.filter_sql`. Nothing a user writes becomes SQL:
fields and operators are looked up here, values are bound.
"""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from atlas.errors import UsageError, unknown
from atlas.query.map_spec import COORDINATES

OF_MAPS: tuple[str, ...] = (*COORDINATES, "fingerprint")
"""Fields of a map, whose values are names; `*` and `?` in one stand for any text and any character."""

WHOLE = ("layer", "neuron", "rank")
NUMBERS = (*WHOLE, "score", "percentile", "z")
"""Fields of a neuron in a map. z: robust, against the map itself (see `atlas.query.selection_rules`)."""

TAGS = ("token", "label", "selection")
"""What a neuron has: among its decoded tokens, as a label (`image`, or `miner:image` of one rule), in a selection."""

EFFECTS = ("suppression", "retention", "selectivity", "beyond_random")
"""What an edit of the neuron was measured to do in the map's source, to its concept where it has one. suppression:
accuracy lost on it. retention: accuracy left on others. selectivity: left on others minus left on it. beyond_random:
accuracy that as many random neurons leave on it minus what these leave."""

IOU = "iou"
"""How well the neuron's map finds the pixels of the map's concept: its score by the method of this name."""

MEASURED = (*(f"effect.{name}" for name in EFFECTS), IOU)
"""Numbers that are not of the map itself."""

FIELDS = (*OF_MAPS, *NUMBERS, *TAGS, *MEASURED)
EQUALS, COMPARES = ("=", "!=", "in"), ("<", "<=", ">", ">=")
LARGEST, DEEPEST = 200, 50
"""At most so many tests in a tree, and so many levels."""

_RANGE = re.compile(r"(\d{1,9})-(\d{1,9})")


@dataclass(frozen=True, slots=True)
class Test:
    """One test of one field. value: text, a number, or with `in` several; of whole numbers also ranges, "8-15".

    Raises:
        UsageError: no such field, an operator it does not have, or a value of the wrong kind.
    """

    field: str
    op: str
    value: Any

    def __post_init__(self) -> None:
        if self.field not in FIELDS:
            raise unknown("field", self.field, FIELDS, "atlas query --help")
        measured, number = self.field in MEASURED, self.field in NUMBERS
        ops = COMPARES if measured else (*EQUALS, *COMPARES) if number else EQUALS
        if self.op not in ops:
            raise UsageError(f"{self.field} takes one of {' '.join(ops)}, not '{self.op}'")
        if self.op == "in" and (not isinstance(self.value, tuple) or not self.value):
            raise UsageError(f"'{self.field} in' needs values, for example {self.field} in {self._example()}")
        values = self.value if self.op == "in" else (self.value,)
        checked = tuple(self._checked(v, number or measured) for v in values)
        object.__setattr__(self, "value", checked if self.op == "in" else checked[0])

    def _checked(self, value: Any, numeric: bool) -> Any:
        if not numeric:
            if isinstance(value, bool | int | float):
                value = str(value)
            if (
                not isinstance(value, str)
                or not value
                or "\0" in value
                or any("\ud800" <= c <= "\udfff" for c in value)
            ):
                raise UsageError(f"{self.field} is a name, for example {self._example()}; not {value!r}")
            return value
        if isinstance(value, str) and self.op == "in" and self.field in WHOLE:
            range_match = _RANGE.fullmatch(value)
            if range_match and int(range_match[1]) <= int(range_match[2]):
                return value
        try:
            if isinstance(value, bool):
                raise ValueError
            number = float(value)
            whole = int(number) if math.isfinite(number) and number == int(number) else None
        except (TypeError, ValueError, OverflowError):
            number, whole = math.nan, None
        out_of_range = not math.isfinite(number) or abs(number) > 1e30
        if self.field == "percentile" and not 0 <= number <= 100:
            raise UsageError(f"percentile is a number from 0 to 100, for example {self._example()}; not {value!r}")
        if out_of_range or (self.field in WHOLE and (whole is None or not 0 <= whole < 2**31)):
            kind = "a whole number" if self.field in WHOLE else "a number"
            raise UsageError(f"{self.field} is {kind}, for example {self._example()}; not {value!r}")
        return whole if self.field in WHOLE else number

    def _example(self) -> str:
        of_text = {"token": "bark", "label": "image", "selection": "my-dogs", "concept": "dog"}
        if self.field in WHOLE and self.op == "in":
            return "0,2,8-15"
        return "0.5" if self.field in MEASURED else of_text.get(self.field, "3" if self._number() else "text")

    def _number(self) -> bool:
        return self.field in NUMBERS


@dataclass(frozen=True, slots=True)
class And:
    """Passes what every part passes; without parts, everything."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """Passes what any part passes."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """Passes what the part does not pass."""

    part: Filter


Filter: TypeAlias = Test | And | Or | Not
EVERYTHING = And(())
"""The filter that every neuron passes."""


def tests(tree: Filter) -> Iterator[Test]:
    """Every test of a tree, from left to right."""
    if isinstance(tree, Test):
        yield tree
    elif isinstance(tree, Not):
        yield from tests(tree.part)
    else:
        for part in tree.parts:
            yield from tests(part)


def conjuncts(tree: Filter) -> Iterator[Test]:
    """The tests that every neuron must pass: those that are not below `or` or `not`."""
    for part in tree.parts if isinstance(tree, And) else (tree,):
        if isinstance(part, Test):
            yield part
        elif isinstance(part, And):
            yield from conjuncts(part)


def bounded(tree: Filter) -> Filter:
    """The tree itself.

    Raises:
        UsageError: it is too large or too deep.
    """
    waiting, count = [(tree, 1)], 0
    while waiting:
        node, depth = waiting.pop()
        count += isinstance(node, Test)
        if count > LARGEST or depth > DEEPEST:
            raise UsageError(f"the filter is too large: at most {LARGEST} tests, {DEEPEST} levels deep")
        below = () if isinstance(node, Test) else (node.part,) if isinstance(node, Not) else node.parts
        waiting += [(part, depth + 1) for part in below]
    return tree


def both(*trees: Filter) -> Filter:
    """The filter that passes what all of them pass, flattened."""
    parts: list[Filter] = []
    for tree in trees:
        parts += tree.parts if isinstance(tree, And) else [tree]
    return parts[0] if len(parts) == 1 else And(tuple(parts))


def as_json(tree: Filter) -> dict[str, Any]:
    """Plain objects that `from_json` reads back to an equal tree."""
    if isinstance(tree, Test):
        value = list(tree.value) if isinstance(tree.value, tuple) else tree.value
        return {"field": tree.field, "op": tree.op, "value": value}
    if isinstance(tree, Not):
        return {"not": as_json(tree.part)}
    return {"and" if isinstance(tree, And) else "or": [as_json(part) for part in tree.parts]}


def from_json(payload: Any) -> Filter:
    """The tree of `as_json`.

    Raises:
        UsageError: the payload is not a filter; the message shows which part.
    """
    try:
        return bounded(_from_json(payload, 0))
    except RecursionError:  # an object too deep to be shown
        raise UsageError(f"the filter is too large: at most {DEEPEST} levels deep") from None


def _from_json(payload: Any, depth: int) -> Filter:
    if depth > DEEPEST:
        raise UsageError(f"the filter is too large: at most {DEEPEST} levels deep")
    if isinstance(payload, Mapping) and set(payload) == {"field", "op", "value"}:
        field, op, value = payload["field"], payload["op"], payload["value"]
        if isinstance(field, str) and isinstance(op, str):
            return Test(field, op, tuple(value) if isinstance(value, list) else value)
    elif isinstance(payload, Mapping) and set(payload) == {"not"}:
        return Not(_from_json(payload["not"], depth + 1))
    elif isinstance(payload, Mapping) and set(payload) in ({"and"}, {"or"}):
        ((word, parts),) = payload.items()
        if isinstance(parts, list) and (parts or word == "and"):
            trees = tuple(_from_json(part, depth + 1) for part in parts)
            return And(trees) if word == "and" else Or(trees)
    shown = repr(payload)
    raise UsageError(
        f"not a filter: {shown[:80]}{'...' if len(shown) > 80 else ''}; "
        'write {"field": ..., "op": ..., "value": ...}, {"and": [...]}, {"or": [...]} or {"not": ...}'
    )


def spans(values: tuple[Any, ...]) -> list[tuple[int, int]]:
    """Whole numbers and ranges, as pairs of first and last."""
    ranges = []
    for value in values:
        low, _, high = str(value).partition("-")
        ranges.append((int(low), int(high or low)))
    return ranges


def fits(stored: str, pattern: str) -> bool:
    """Whether a name fits a pattern, in which `*` stands for any text, `?` for any character, and nothing else is
    special."""
    return fnmatch.fnmatchcase(stored, pattern.replace("[", "[[]"))


def is_glob(name: str, value: str) -> bool:
    """Whether a value is a pattern; the concept `*` is not one, but the name of a map over all concepts."""
    return (name, value) != ("concept", "*") and any(sign in value for sign in "*?")
