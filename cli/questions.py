"""Commands from questions: one option a field, and the same rows, facts and notes as everywhere."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from atlas.errors import UsageError
from cli.common import AtlasPath, note_defaults, resolve, say, spelling, tell
from cli.groups import grouped
from cli.interchange import SCHEMA_VERSION
from cli.options import filled, flags_of, parameters_of
from cli.render import READ, Output, show, write_json

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
        question = filled(kind, given)
        answer = question.ask(resolve(atlas))
        if explain:
            if answer.sql is None:
                raise UsageError("this question is answered by more than one statement; --explain has none to show")
            note_defaults(answer)
            tell(answer.sql)
            return
        print_answer(answer, form)
        if fail_empty and not question.any_found(answer):
            raise typer.Exit(1)

    return with_options(command, kind)


def with_options(command: Callable[..., None], kind: type[Any]) -> Callable[..., None]:
    """A command that takes the options of a question or request too, as keywords of their own."""
    plain = [p for p in inspect.signature(command).parameters.values() if p.kind is not p.VAR_KEYWORD]
    hints = get_type_hints(command, include_extras=True)
    taken = {p.name for p in plain}
    parameters = [p for p in parameters_of(kind) if p.name not in taken]
    parameters += [p.replace(annotation=hints[p.name], kind=p.KEYWORD_ONLY) for p in plain]

    def asking(**given: Any) -> None:
        with spelling(flags_of(kind)):
            command(**given)

    asking.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    asking.__annotations__ = {p.name: p.annotation for p in parameters}
    asking.__doc__ = help_of(kind) if command.__doc__ is None else command.__doc__
    return grouped(asking)


def help_of(kind: type[Any], examples: Sequence[str] | None = None) -> str:
    """A question's or request's documentation without what only a program needs, and examples: by default its own."""
    text = inspect.cleandoc(kind.__doc__ or "").partition("\n\nRaises:")[0]
    return "\n\n".join([text, *(f"Example: {line}" for line in (kind.examples if examples is None else examples))])


def print_answer(answer: Answer, form: str) -> None:
    """The rows on stdout; what was filled in, and notes, on stderr."""
    note_defaults(answer)
    more: dict[str, Any] = {"facts": answer.facts, "provenance": answer.provenance, "next": answer.next}
    if form in ("json", "jsonl") and answer.parts:
        more |= {name: table.to_pylist() for name, table in answer.parts.items()}
        if form == "jsonl":  # several tables are not lines
            write_json({"schema_version": SCHEMA_VERSION, **more, "rows": answer.to_pylist()})
            return
    if form in READ:
        _print_tables(answer, form)
    else:
        show(answer.table, form, more=more)
        if form not in ("json", "jsonl") and len(tables := answer.readable()) > 1:
            say(f"{form} has the rows of one table; --json has them all: {', '.join(tables)}")
    for note in answer.notes:
        say(note)


def _print_tables(answer: Answer, form: str) -> None:
    if answer.heading:
        tell(answer.heading)
    for name, table in answer.readable().items():
        if name:
            tell(f"\n{name}")
        show(table, form)


def ask(name: str) -> Callable[..., None]:
    """The command of a question by its name."""
    from atlas.api.ask import question_named

    return command_of(question_named(name))
