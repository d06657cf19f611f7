"""The values of a question's or a request's fields: converted where the meaning is plain, refused otherwise."""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from atlas.errors import UsageError
from atlas.query.option import COMMAS, PAIRS, REPEATED, Described, options_of

NAMES: Mapping[type, str] = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a string",
    Path: "a path",
    Mapping: "a dictionary",
    Sequence: "a list",
    tuple: "a list",
}
"""How a message names the types that fields have."""


def several(value: Iterable[object] | str) -> tuple[str, ...]:
    """Names as a tuple; those of one text stand between commas.

    >>> several("dog, cat"), several(["dog"]), several([40, "1%"])
    (('dog', 'cat'), ('dog',), ('40', '1%'))
    """
    parts = value.split(",") if isinstance(value, str) else value
    return tuple(text for part in parts if (text := str(part).strip()))


def check_given(asked: object) -> None:
    """Convert the fields' values: one text or any iterable of names to a tuple, text to a path, a path to text.

    Raises:
        UsageError: a value of another type, a number below its least, or a list of names without any; the message
            names the field.
    """
    kind: Any = type(asked)
    types = _types_of(kind)
    for name, about in options_of(type(asked)).items():
        value = getattr(asked, name)
        if name not in types or (value is None and type(None) in types[name]):
            continue
        converted = _converted(name, value, types[name], about)
        if converted is not value:
            object.__setattr__(asked, name, converted)
        if about.least is not None and not isinstance(converted, str) and converted < about.least:
            raise UsageError(f"[[{name}]] must be at least {about.least}")


@cache
def _types_of(kind: Any) -> dict[str, tuple[type, ...]]:
    """The classes that a field's value may have; without fields that take anything."""
    types = {}
    for name, hint in get_type_hints(kind).items():
        parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        classes = tuple(get_origin(part) or part for part in parts)
        if all(isinstance(c, type) for c in classes):
            types[name] = classes
    return types


def _converted(name: str, value: Any, types: tuple[type, ...], about: Described) -> Any:
    if about.several == REPEATED:
        return (str(value),) if isinstance(value, str | Path) else _names(name, value)
    if about.several == COMMAS or tuple in types:
        alone = isinstance(value, numbers.Real) and about.several == COMMAS  # one dose
        names = _names(name, [value] if alone else value)
        if about.several == COMMAS and not names:
            raise UsageError(f"[[{name}]] names nothing; give one or more, or leave it out")
        return names
    if about.least is not None and {int, str} <= {*types} and str(value).isdecimal():  # "40", beside "1%"
        return int(value)
    if isinstance(value, bool):
        valid = bool in types
    elif about.several == PAIRS and isinstance(value, Mapping):
        return {**value}
    elif isinstance(value, types):
        return value
    elif int in types and isinstance(value, numbers.Integral):  # of NumPy
        return int(value)
    elif float in types and isinstance(value, numbers.Real):
        return float(value)
    elif isinstance(value, str) and Path in types:
        return Path(value)
    elif isinstance(value, Path) and str in types:
        return str(value)
    else:
        valid = False
    if not valid:
        expected = " or ".join(dict.fromkeys(NAMES.get(t, f"a {t.__name__}") for t in types if t is not type(None)))
        raise UsageError(f"[[{name}]] must be {expected}, not {shown(value)}")
    return value


def _names(name: str, value: Any) -> tuple[str, ...]:
    """Raises UsageError where it is neither text nor an iterable of names."""
    parts = list(value) if isinstance(value, Iterable) and not isinstance(value, Mapping) else None
    if parts is None or not all(isinstance(p, str | Path | numbers.Real) for p in parts):
        raise UsageError(f"[[{name}]] must be a list of names, or one text with commas between; not {shown(value)}")
    return several(value if isinstance(value, str) else parts)


def shown(value: object) -> str:
    """A value in a message: itself where that is short, otherwise its type.

    >>> shown(3), shown(range(10**6)), shown(["a"] * 100)
    ('3', 'range(0, 1000000)', 'a list')
    """
    text = repr(value)
    return text if len(text) <= 60 and "\n" not in text else f"a {type(value).__name__}"
