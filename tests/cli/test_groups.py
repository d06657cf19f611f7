"""Groups of options: one parameter of a command, several of its command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from cli.groups import grouped
from cli.main import make_app


@dataclass(frozen=True)
class Base:
    colour: Annotated[str, typer.Option("--colour", "-k", help="A colour.")]
    many: Annotated[list[str] | None, typer.Option("--many", help="Several.")] = None


@dataclass(frozen=True)
class Size(Base):
    width: Annotated[int, typer.Option("--width", min=1, help="A width.")] = 3


def app(seen: list[Any]) -> typer.Typer:
    made = typer.Typer(rich_markup_mode=None)

    @made.command()
    @grouped
    def paint(*, thing: Annotated[str, typer.Argument()], size: Size, loud: bool = False) -> None:
        """Paint a thing."""
        seen.extend((thing, size, loud))

    return made


def test_a_group_comes_as_one_value() -> None:
    seen: list[Any] = []
    arguments = ["door", "-k", "red", "--many", "a", "--many", "b", "--width", "7", "--loud"]
    assert CliRunner().invoke(app(seen), arguments).exit_code == 0
    assert seen == ["door", Size("red", ["a", "b"], 7), True]


def test_fields_have_their_defaults() -> None:
    seen: list[Any] = []
    assert CliRunner().invoke(app(seen), ["door", "--colour", "red"]).exit_code == 0
    assert seen == ["door", Size("red"), False]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [(["door"], "--colour"), (["-k", "red"], "THING"), (["door", "-k", "red", "--width", "0"], "--width")],
)
def test_what_is_missing_or_wrong_is_told_by_its_option(arguments: list[str], told: str) -> None:
    seen: list[Any] = []
    result = CliRunner().invoke(app(seen), arguments)
    assert result.exit_code == 2 and told.lower() in result.output.lower() and not seen


def test_help_lists_the_options_where_the_group_stands() -> None:
    text = CliRunner().invoke(app([]), ["--help"]).output
    assert "Paint a thing." in text
    assert text.index("--colour") < text.index("--many") < text.index("--width") < text.index("--loud")


LOADING = {"--device", "--device-map", "--dtype", "--quantization", "--attn-impl", "--trust-remote-code"}


def options() -> dict[str, list[str]]:
    """The options of every command."""
    found: dict[str, list[str]] = {}

    def collect(command: Any, name: str) -> None:
        found[name] = [option for parameter in command.params for option in parameter.opts]
        for part, below in getattr(command, "commands", {}).items():
            collect(below, f"{name} {part}".strip())

    collect(typer.main.get_command(make_app()), "")
    return found


def test_every_command_that_runs_a_model_says_alike_how() -> None:
    found = {name: set(given) for name, given in options().items() if "--device" in given}
    others = {name: given & LOADING for name, given in found.items() if not given >= LOADING}
    assert {"ingest", "generate", "evaluate", "search", "index build", "edit apply", "edit solve"} <= set(found)
    assert others == {"edit bake": {"--device", "--trust-remote-code"}}  # whole weights, in their own precision


def test_every_command_that_prints_rows_takes_every_format() -> None:
    found = {name: {"--format", "--json", "--csv"}.intersection(given) for name, given in options().items()}
    assert [name for name, given in found.items() if len(given) in (1, 2)] == []
    with_rows = {name for name, given in found.items() if given}
    assert {"query", "neuron", "edit ls", "plot dose-response", "runs show"} <= with_rows


def test_no_option_is_two_things() -> None:
    for name, given in options().items():
        assert len(given) == len(set(given)), name
