"""Filters as text, for `--where`: tests joined by `and`, `or`, `not` and parentheses.

concept = dog and layer in 8-15,20 and not token = bark
(method = contribution or method = activation) and percentile >= 99 and effect.suppression > 0.5
concept = "hot dog" and label = miner:image

filter     either { "or" either }        either  both { "and" both }
both       "not" both | "(" filter ")" | test
test       FIELD ( "=" | "!=" | "<" | "<=" | ">" | ">=" ) VALUE  |  FIELD [ "not" ] "in" VALUES
VALUES     VALUE { "," VALUE }, in parentheses if you like
VALUE      a word without spaces, quotes, parentheses, commas and = < > !, or anything in ' ' or " "
"""

from __future__ import annotations

import json
import re
from typing import NoReturn

from atlas.errors import UsageError
from atlas.query.filters import DEEPEST, And, Filter, Not, Or, Test, bounded

LONGEST = 10_000
"""Characters."""

_TOKEN = re.compile(
    r"""\s*(?:(?P<sign><=|>=|!=|=|<|>|\(|\)|,)
        |"(?P<double>(?:[^"\\]|\\.)*)"|'(?P<single>(?:[^'\\]|\\.)*)'
        |(?P<word>[^\s"'()=<>!,]+))""",
    re.VERBOSE | re.DOTALL,
)
_PLAIN = re.compile(r"""[^\s"'()=<>!,]+""")
_WORDS = ("and", "or", "not", "in")


def parse(text: str) -> Filter:
    """Read a filter.

    Raises:
        UsageError: the text is not a filter; the message shows where.
    """
    if len(text) > LONGEST:
        raise UsageError(f"a filter has at most {LONGEST} characters, this one {len(text)}")
    return bounded(_Parser(text).filter())


def text_of(tree: Filter) -> str:
    """The text that `parse` reads back to an equal tree."""
    if isinstance(tree, Test):
        values = tree.value if isinstance(tree.value, tuple) else (tree.value,)
        return f"{tree.field} {tree.op} {','.join(_written(v) for v in values)}"
    if isinstance(tree, Not):
        return f"not {_inner(tree.part)}"
    return (" and " if isinstance(tree, And) else " or ").join(_inner(part) for part in tree.parts)


def _inner(tree: Filter) -> str:
    return text_of(tree) if isinstance(tree, Test) else f"({text_of(tree)})"


def _written(value: object) -> str:
    if not isinstance(value, str):
        return repr(value)
    plain = _PLAIN.fullmatch(value) and value.lower() not in _WORDS
    return value if plain else '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


class _Parser:
    def __init__(self, text: str):
        self.text = text
        self.tokens: list[tuple[str, str, int]] = []
        at = 0
        while at < len(text.rstrip()):
            token = _TOKEN.match(text, at)
            if token is None:
                self._fail(at, "unexpected character")
            kind = str(token.lastgroup)
            value = token[kind]
            if kind in ("double", "single"):
                kind, value = "quoted", re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL)
            self.tokens.append((kind, value, token.start(str(token.lastgroup))))
            at = token.end()
        self.place = 0

    def filter(self) -> Filter:
        tree = self._either(0)
        if self.place < len(self.tokens):
            self._fail(self._at(), "expected 'and', 'or' or the end")
        return tree

    def _either(self, depth: int) -> Filter:
        parts = [self._every(depth)]
        while self._taken("or"):
            parts.append(self._every(depth))
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def _every(self, depth: int) -> Filter:
        parts = [self._one(depth)]
        while self._taken("and"):
            parts.append(self._one(depth))
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def _one(self, depth: int) -> Filter:
        if depth > DEEPEST:
            self._fail(self._at(), f"at most {DEEPEST} levels deep")
        if self._taken("not"):
            return Not(self._one(depth + 1))
        if self._taken("(", "sign"):
            tree = self._either(depth + 1)
            if not self._taken(")", "sign"):
                self._fail(self._at(), "expected ')'")
            return tree
        return self._test()

    def _test(self) -> Filter:
        start = self._at()
        kind, field = self._next("a field, for example concept")
        if kind != "word":
            self._fail(start, "expected a field, for example concept = dog")
        negated = self._taken("not")
        if self._taken("in"):
            test: Filter = self._checked(field, "in", self._values(), start)
            return Not(test) if negated else test
        kind, op = self._next("= or another comparison")
        if negated or kind != "sign" or op in "(),":
            self._fail(start, f"expected one of = != < <= > >= in after '{field}'")
        return self._checked(field, op, self._value(), start)

    def _checked(self, field: str, op: str, value: object, start: int) -> Test:
        try:
            return Test(field, op, value)
        except UsageError as error:
            self._fail(start, str(error))

    def _values(self) -> tuple[str, ...]:
        inside = self._taken("(", "sign")
        values = [self._value()]
        while self._taken(",", "sign"):
            values.append(self._value())
        if inside and not self._taken(")", "sign"):
            self._fail(self._at(), "expected ')'")
        return tuple(values)

    def _value(self) -> str:
        start = self._at()
        kind, value = self._next("a value")
        if kind == "sign":
            self._fail(start, "expected a value; put one that contains such a character in quotes")
        return value

    def _taken(self, value: str, kind: str = "word") -> bool:
        if self.place < len(self.tokens):
            its_kind, its_value, _ = self.tokens[self.place]
            if its_kind == kind and (its_value == value or (kind == "word" and its_value.lower() == value)):
                self.place += 1
                return True
        return False

    def _next(self, expected: str) -> tuple[str, str]:
        if self.place >= len(self.tokens):
            self._fail(len(self.text), f"expected {expected}")
        kind, value, _ = self.tokens[self.place]
        self.place += 1
        return kind, value

    def _at(self) -> int:
        return self.tokens[self.place][2] if self.place < len(self.tokens) else len(self.text)

    def _fail(self, at: int, problem: str) -> NoReturn:
        before, after = self.text[max(0, at - 30) : at], self.text[at : at + 30]
        where = json.dumps(f"{before}>>>{after}", ensure_ascii=False)
        see = "" if "`" in problem else " (`atlas query --help` has examples)"
        raise UsageError(f"the filter cannot be read at {where}: {problem}{see}")
