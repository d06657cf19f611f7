"""Commands from questions: one option a field, and the same rows, facts and notes as everywhere."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin, get_type_hints

import typer

from atlas.errors import UsageError
from atlas.query.option import Described, options_of
from cli.common import AtlasPath, note_defaults, resolve, say, spelling, tell, words
from cli.groups import grouped
from cli.render import SCHEMA_VERSION, Output, show, write_json

if TYPE_CHECKING:
    from atlas.query.answer import Answer
    from atlas.query.question import Question

Explain = Annotated[bool, typer.Option("--explain", help="Print the SQL instead of its answer.")]
FailEmpty = Annotated[bool, typer.Option("--fail-empty", help="Exit with 1 where there is no row.")]


def command_of(kind: type[Question[Any]]) -> Callable[..., None]:
    """The command that asks a question."""

    def command(
        *,
        output: Output,
        explain: Explain = False,
        fail_empty: FailEmpty = False,
        atlas: AtlasPath = None,
        **given: Any,
    ) -> None:
        form = output.chosen()
        asked = asked_of(kind, given)
        answer = asked.ask(resolve(atlas))
        if explain:
            if answer.sql is None:
                raise UsageError("this question is answered by more than one statement; --explain has none to show")
            note_defaults(answer)
            tell(answer.sql)
            return
        print_answer(answer, form)
        if fail_empty and not asked.any_found(answer):
            raise typer.Exit(1)

    return with_options(command, kind)


def with_options(command: Callable[..., None], kind: type[Question[Any]]) -> Callable[..., None]:
    """A command that takes the options of a question too, as keywords of their own."""
    plain = [p for p in inspect.signature(command).parameters.values() if p.kind is not p.VAR_KEYWORD]
    hints = get_type_hints(command, include_extras=True)
    taken = {p.name for p in plain}
    parameters = [p for p in option_parameters(kind) if p.name not in taken]
    parameters += [p.replace(annotation=hints[p.name], kind=p.KEYWORD_ONLY) for p in plain]

    def asking(**given: Any) -> None:
        with spelling({name: flag_of(name, about) for name, about in options_of(kind).items()}):
            command(**given)

    asking.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    asking.__annotations__ = {p.name: p.annotation for p in parameters}
    asking.__doc__ = help_of(kind) if command.__doc__ is None else command.__doc__
    return grouped(asking)


def help_of(kind: type[Question[Any]], examples: Sequence[str] | None = None) -> str:
    """A question's documentation without what only a program needs, and examples: by default its own."""
    text = inspect.cleandoc(kind.__doc__ or "").partition("\n\nRaises:")[0]
    return "\n\n".join([text, *(f"Example: {line}" for line in (kind.examples if examples is None else examples))])


def option_parameters(kind: type[Question[Any]]) -> list[inspect.Parameter]:
    """One parameter for Typer a field: those that are given by place first."""
    hints = get_type_hints(kind)
    described = options_of(kind)
    made = [_parameter(f, described[f.name], hints[f.name]) for f in fields(kind) if f.name in described]  # type: ignore[arg-type]
    by_place = {f.name for f in fields(kind) if not f.kw_only}  # type: ignore[arg-type]
    return sorted(made, key=lambda p: p.name not in by_place)


def _parameter(field: Field[Any], about: Described, hint: Any) -> inspect.Parameter:
    kind = _typed_on_a_command_line(hint)
    default = inspect.Parameter.empty if field.default is MISSING else field.default
    if kind is str and not default:  # several values are one text, and none of them no text
        default = None
    if default is None:
        kind = kind | None
    info = (
        typer.Argument(help=about.help)
        if about.argument
        else typer.Option(*flags_of(field.name, about), help=about.help)
    )
    annotation = Annotated[kind, info]  # type: ignore[valid-type]
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _typed_on_a_command_line(hint: Any) -> Any:
    """What a field's type is as one option: bool, int, float or text."""
    parts = set(get_args(hint)) - {type(None)} if get_origin(hint) is not tuple else {hint}
    for kind in (bool, int, float):
        if hint is kind or parts == {kind}:
            return kind
    return str


def flags_of(name: str, about: Described) -> tuple[str, ...]:
    """How an option is spelled."""
    return about.flags or (f"--{name.replace('_', '-')}",)


def flag_of(name: str, about: Described) -> str:
    """How a message names an option: its long form, or an argument's own name."""
    return name.upper() if about.argument else flags_of(name, about)[0]


def asked_of(kind: type[Question[Any]], given: Mapping[str, Any]) -> Question[Any]:
    """The question that a command line asks. Several values come as one text, with commas between."""
    hints = get_type_hints(kind)
    defaults = {f.name: f.default for f in fields(kind)}  # type: ignore[arg-type]
    values = {}
    for name in options_of(kind):
        value = given.get(name)
        if value is None:
            continue
        if get_origin(hints[name]) is tuple or (isinstance(value, str) and isinstance(defaults[name], tuple)):
            if not (parts := words(value)):
                raise UsageError(f"[[{name}]] '{value}' names nothing; give one, or several with commas between")
            value = parts
        values[name] = value
    asked: Question[Any] = kind(**values)
    return asked


def print_answer(answer: Answer, form: str) -> None:
    """The rows on stdout; what was filled in, and notes, on stderr."""
    note_defaults(answer)
    more: dict[str, Any] = {"facts": answer.facts, "provenance": answer.provenance, "next": answer.next}
    if form in ("json", "jsonl") and answer.parts:
        more |= {name: table.to_pylist() for name, table in answer.parts.items()}
        if form == "jsonl":  # several tables are not lines
            write_json({"schema_version": SCHEMA_VERSION, **more, "rows": answer.to_pylist()})
            return
    if form == "table":
        _print_tables(answer)
    else:
        show(answer.table, form, more=more)
        if form not in ("json", "jsonl") and len(tables := answer.readable()) > 1:
            say(f"{form} has the rows of one table; --json has them all: {', '.join(tables)}")
    for note in answer.notes:
        say(note)


def _print_tables(answer: Answer) -> None:
    if answer.heading:
        tell(answer.heading)
    for name, table in answer.readable().items():
        if name:
            tell(f"\n{name}")
        show(table, "table")


def ask(name: str) -> Callable[..., None]:
    """The command of a question by its name."""
    from atlas.api.ask import question_named

    return command_of(question_named(name))
