"""Options of the command line from the described fields of a class, and the class from what was given."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import typer

from atlas.errors import UsageError
from atlas.query.option import COMMAS, PAIRS, REPEATED, Described, options_of
from cli.common import in_flags, pairs, spelling, words

T = TypeVar("T")


def parameters_of(kind: type[Any]) -> list[inspect.Parameter]:
    """One parameter for Typer a field: those that are given by place first, those that many commands have last."""
    hints = get_type_hints(kind)
    described = options_of(kind)
    with spelling(flags_of(kind)):
        parameters = [_parameter(f, described[f.name], hints[f.name]) for f in fields(kind) if f.name in described]
    by_place = {f.name for f in fields(kind) if not f.kw_only}
    common = {name for name, about in described.items() if about.of and name not in kind.__annotations__}
    return sorted(parameters, key=lambda p: (p.name not in by_place, p.name in common))


def _parameter(field: Field[Any], about: Described, hint: Any) -> inspect.Parameter:
    kind = _typed_on_a_command_line(hint, about)
    default = inspect.Parameter.empty if field.default is MISSING else field.default
    if kind is str and not default:  # several values are one text, and none of them no text
        default = None
    if default is None:
        kind = kind | None
    flags = spellings(field.name, about)
    help = in_flags(about.help) if "[[" in about.help else about.help
    info = typer.Argument(help=help) if about.argument else typer.Option(*flags, help=help)
    annotation = Annotated[kind, info]  # type: ignore[valid-type]
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _typed_on_a_command_line(hint: Any, about: Described) -> Any:
    """What a field's type is as one option: bool, int, float, a path or text; a list of texts where it is repeated."""
    if about.several in (REPEATED, PAIRS):
        return list[str]
    parts = set(get_args(hint)) - {type(None)} if get_origin(hint) is not tuple else {hint}
    for kind in (bool, int, float, Path):
        if hint is kind or parts == {kind}:
            return kind
    return str


def spellings(name: str, about: Described) -> tuple[str, ...]:
    """How an option is spelled."""
    return about.flags or (f"--{name.replace('_', '-')}",)


def flags_of(kind: type[Any]) -> dict[str, str]:
    """How a message names every option: its long form, or an argument's own name."""
    return {
        name: name.upper() if about.argument else spellings(name, about)[0] for name, about in options_of(kind).items()
    }


def filled(kind: type[T], given: Mapping[str, Any], **more: Any) -> T:
    """A question or a request as a command line gives it. more: fields that are not options."""
    hints = get_type_hints(kind)
    defaults = {f.name: f.default for f in fields(kind)}  # type: ignore[arg-type]
    values = {}
    for name, about in options_of(kind).items():
        value = given.get(name)
        if value is None:
            continue
        if value == str(defaults[name]):  # Typer turns the default of a number or a text into text
            value = defaults[name]
        elif about.several == PAIRS:
            value = pairs(value, name) or None
        elif (
            about.several == COMMAS
            or get_origin(hints[name]) is tuple
            or (isinstance(value, str) and isinstance(defaults[name], tuple))
        ):
            if not (parts := words(value)):
                raise UsageError(f"[[{name}]] '{value}' names nothing; give one, or several with commas between")
            value = parts
        values[name] = value
    return kind(**values, **more)
