"""Fields of a question: a dataclass's field with its help text, from which options and parameters derive."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar, dataclass_transform

OPTION = "option"
"""The key of a field's metadata that holds its `Described`."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Described:
    """What a field is for, and how the command line spells it.

    flags: its options, `--name` by default. argument: given by position, without a flag. least: the smallest number
    allowed. several: how the command line takes several values: COMMAS, REPEATED or PAIRS. of: what the field belongs
    to, where a class has fields of several things.
    """

    help: str
    flags: tuple[str, ...] = ()
    argument: bool = False
    least: int | None = None
    several: str | None = None
    of: str | None = None


COMMAS, REPEATED, PAIRS = "commas", "repeated", "pairs"
"""Several values of an option: with commas between; or the option again for each, as a value or as KEY=VALUE."""


def option(
    help: str,
    *flags: str,
    default: Any,
    argument: bool = False,
    least: int | None = None,
    several: str | None = None,
    of: str | None = None,
    kw_only: bool = True,
) -> Any:
    """A field with a default. help: one line, for the command line and for every other place that explains it."""
    about = Described(help, flags, argument, least, several, of)
    return field(default=default, metadata={OPTION: about}, kw_only=kw_only)


def by_place(of: type[Any], name: str, *, default: Any, kw_only: bool = False) -> Any:
    """A field of a base class once more, given by place in Python too."""
    return field(default=default, metadata=of.__dataclass_fields__[name].metadata, kw_only=kw_only)


def required(help: str, *flags: str, argument: bool = False, of: str | None = None, kw_only: bool = True) -> Any:
    """A field that must be given."""
    return field(metadata={OPTION: Described(help, flags, argument, of=of)}, kw_only=kw_only)


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(option, by_place, required))
def described(cls: type[T]) -> type[T]:
    """A frozen dataclass whose fields are made by `option` and `required`; all but those marked are keyword-only."""
    return dataclass(frozen=True)(cls)


def name_of(question: object) -> str:
    """The name of a question, or of its class: that of its file."""
    kind = question if isinstance(question, type) else type(question)
    return kind.__module__.rpartition(".")[2]


def options_of(cls: type[Any]) -> Mapping[str, Described]:
    """The described fields of a class, in order."""
    return {f.name: f.metadata[OPTION] for f in fields(cls) if OPTION in f.metadata}
