"""`atlas plot`: answers as pictures. matplotlib is the extra `plots`, and is imported only where one is drawn."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

import atlas.figures
from atlas import registry
from atlas.api.ask import question_named
from atlas.errors import AtlasError, AtlasWarning, Unsupported
from atlas.figures._style import check_ending, save
from atlas.query.option import name_of
from atlas.query.question import Question
from cli.common import AtlasPath, resolve, tell
from cli.options import filled
from cli.questions import help_of, print_answer, with_options
from cli.render import Output

app = typer.Typer(no_args_is_help=True, help="Draw what is stored.")

Out = Annotated[Path | None, typer.Option("--out", "-o", help="A .png, .svg or .pdf beside the table.")]


def _check(out: Path) -> None:
    check_ending(out)
    if importlib.util.find_spec("matplotlib") is None:
        raise Unsupported("plots need: pip install 'neuron-atlas[plots]'")


def _drawing(kind: type[Question[Any]]) -> Callable[..., None]:
    """The command that draws a question's answer."""

    def command(*, out: Out = None, output: Output, atlas: AtlasPath = None, **given: Any) -> None:
        form = output.chosen()
        if out is not None:
            _check(out)
        answer = filled(kind, given).ask(resolve(atlas))
        print_answer(answer, form)
        if out is not None:
            _save(answer.plot, out)
            tell(out)

    name = name_of(kind).replace("_", "-")
    asked = f"atlas {name}"
    given = kind.examples[0].removeprefix(asked) if kind.examples[0].startswith(f"{asked} ") else ""
    command.__doc__ = help_of(kind, [f"atlas plot {name}{given} --out {name}.png"])
    return with_options(command, kind)


def _save(plot: Callable[[], Any], out: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure = plot().figure
    save(figure, out)
    plt.close(figure)


for _name in registry.names(atlas.figures):
    try:
        app.command(_name.replace("_", "-"))(_drawing(question_named(_name)))
    except AtlasError as error:  # a plug-in's figure of no question
        warnings.warn(f"the figure '{_name}' cannot be drawn: {error}", AtlasWarning, stacklevel=1)
