"""A question's fields as parameters of a request, and the question from what a request gives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from atlas.errors import UsageError, spelled, unknown
from atlas.query.option import Described, options_of
from cli.options import filled

Q = TypeVar("Q")

TRUE, FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off", "")


def from_texts(kind: type[Q], pairs: Iterable[tuple[str, str]], *, besides: Iterable[str] = ()) -> Q:
    """A question from the parameters of an address. Several values stand between commas, or the name comes again.

    besides: names that are no fields, and are left out.

    Raises:
        UsageError: no such field, or a value that it cannot have; the message names it.
    """
    texts: dict[str, str] = {}
    for name, value in pairs:
        if name not in besides:
            texts[name] = f"{texts[name]},{value}" if name in texts else value
    described, hints = options_of(kind), get_type_hints(kind)
    _require_known(kind, texts)
    values = {name: _typed(name, text, hints[name], described[name]) for name, text in texts.items() if text != ""}
    _require_given(kind, values)
    return filled(kind, values)


def from_json(kind: type[Q], content: Mapping[str, Any]) -> Q:
    """A question from the JSON object of a request, whose values have the types of its fields.

    Raises:
        UsageError: as `from_texts`.
    """
    _require_known(kind, content)
    _require_given(kind, content)
    return kind(**{name: tuple(v) if isinstance(v, list) else v for name, v in content.items()})


def schema_of(kind: type[Any], *, lists: bool = False) -> dict[str, dict[str, Any]]:
    """A JSON schema of every field, by name: with its help text, and its default where it has one. lists: several
    values may be a list too, as in JSON."""
    hints, described = get_type_hints(kind), options_of(kind)
    schemas = {}
    for field in fields(kind):
        if field.name not in described:
            continue
        about = described[field.name]
        schema = _json_type(hints[field.name], about, lists) | {"description": _plain(about.help)}
        if field.default is not MISSING and field.default not in (None, ()):
            schema["default"] = field.default
        schemas[field.name] = schema
    return schemas


def required_of(kind: type[Any]) -> list[str]:
    """The fields that must be given."""
    return [f.name for f in fields(kind) if f.name in options_of(kind) and f.default is MISSING]


def _require_known(kind: type[Any], given: Iterable[str]) -> None:
    for name in given:
        if name not in (known := options_of(kind)):
            raise unknown("parameter of this question", name, known, "/v1/openapi.json")


def _require_given(kind: type[Any], given: Iterable[str]) -> None:
    if missing := [name for name in required_of(kind) if name not in given]:
        raise UsageError(f"give [[{missing[0]}]]: {options_of(kind)[missing[0]].help}")


def _typed(name: str, text: str, hint: Any, about: Described) -> Any:
    """A text as the number or truth value that the field takes; other texts stay."""
    classes = _classes(hint)
    if classes == {bool}:
        if text.lower() not in TRUE + FALSE:
            raise UsageError(f"[[{name}]] is true or false, not '{text}'")
        return text.lower() in TRUE
    for number in (int, float):
        if classes == {number}:
            try:
                return number(text)
            except ValueError:
                kind = "a whole number" if number is int else "a number"
                raise UsageError(f"[[{name}]] must be {kind}, not '{text}'") from None
    return text


def _classes(hint: Any) -> set[Any]:
    """The classes that a value may have, without None."""
    if get_origin(hint) is tuple:
        return {tuple}
    return {get_origin(part) or part for part in (get_args(hint) or (hint,)) if part is not type(None)}


def _json_type(hint: Any, about: Described, lists: bool) -> dict[str, Any]:
    classes = _classes(hint)
    if classes in ({bool}, {int}, {float}):
        schema: dict[str, Any] = {"type": {bool: "boolean", int: "integer", float: "number"}[classes.pop()]}
        return schema if about.least is None else schema | {"minimum": about.least}
    if lists and classes & {tuple, Sequence}:
        return {"type": ["string", "array"], "items": {"type": "string"}}
    return {"type": ["string", "integer"] if lists and int in classes else "string"}


def _plain(help: str) -> str:
    return spelled(help, lambda name, value: name if value is None else f"{name}={value}")
