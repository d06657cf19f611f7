"""Options that belong together: one parameter of a command, several of its command line."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, get_type_hints

from atlas.query.option import options_of
from cli.common import spelling
from cli.options import filled, flags_of, parameters_of


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """A command for Typer, which takes one option from each parameter.

    A parameter whose type is a dataclass stands for the dataclass's fields, each an option with its default; the
    command gets the dataclass. Such parameters have no default of their own, so they are keyword-only.
    """
    hints = get_type_hints(command, include_extras=True)
    shown: list[inspect.Parameter] = []
    groups: dict[str, type] = {}
    for parameter in inspect.signature(command).parameters.values():
        kind = hints[parameter.name]
        if isinstance(kind, type) and is_dataclass(kind):
            groups[parameter.name] = kind
            shown += _options(kind)
        else:
            shown.append(parameter.replace(annotation=kind, kind=inspect.Parameter.KEYWORD_ONLY))

    @functools.wraps(command)
    def called(**given: Any) -> None:
        with spelling({name: flag for kind in groups.values() for name, flag in flags_of(kind).items()}):
            parts = {name: _group(kind, given) for name, kind in groups.items()}
            own = {name: value for name, value in given.items() if name in hints}
            command(**own, **parts)

    called.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
    return called


def _group(kind: type, given: Mapping[str, Any]) -> Any:
    """The dataclass that stands for some of the options."""
    if options_of(kind):
        return filled(kind, given)
    return kind(**{option.name: given[option.name] for option in fields(kind)})


def _options(group: type) -> list[inspect.Parameter]:
    if options_of(group):
        return parameters_of(group)
    hints = get_type_hints(group, include_extras=True)
    if any(option.default_factory is not MISSING for option in fields(group)):
        raise TypeError(f"{group.__name__}: an option's default is a value")
    return [
        inspect.Parameter(
            option.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if option.default is MISSING else option.default,
            annotation=hints[option.name],
        )
        for option in fields(group)
    ]
