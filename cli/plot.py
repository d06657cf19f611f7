"""`atlas plot`: answers as pictures. matplotlib is the extra `plots`, and is imported only where one is drawn."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

import atlas.figures
from atlas import registry
from atlas.api.ask import question_named
from atlas.api.requests import Requests
from atlas.errors import AtlasError, AtlasWarning, UsageError
from atlas.figures._style import check_ending, require_matplotlib, save
from atlas.query.answer import Answer
from atlas.query.option import name_of
from atlas.query.question import Question
from cli.common import AtlasPath, existing, note_model, resolve, tell
from cli.options import filled
from cli.progress import NoProgress, progressing
from cli.questions import help_of, print_answer, with_options
from cli.render import Output

app = typer.Typer(no_args_is_help=True, help="Draw answers.")

Out = Annotated[Path | None, typer.Option("--out", "-o", help="A .png, .svg or .pdf beside the table.")]


def check_out(out: Path | None) -> None:
    """Raise before anything is computed where no figure can be saved under a name; None is no figure.

    Raises:
        UsageError: another ending than a figure's, or no such folder.
        Unsupported: matplotlib is not installed.
    """
    if out is None:
        return
    check_ending(out)
    if not out.absolute().parent.is_dir():
        raise UsageError(f"there is no folder {out.parent}; make it first, or draw elsewhere")
    require_matplotlib()


def _drawing(kind: type[Question[Any]]) -> Callable[..., None]:
    """The command that draws a question's answer."""

    def command(*, out: Out = None, output: Output, atlas: AtlasPath = None, **given: Any) -> None:
        form = output.chosen()
        check_out(out)
        _show(filled(kind, given).ask(resolve(atlas)), form, out)

    name = name_of(kind).replace("_", "-")
    asked = f"atlas {name}"
    given = kind.examples[0].removeprefix(asked) if kind.examples[0].startswith(f"{asked} ") else ""
    given = given.removeprefix(" show")  # of a command in a group, as in `atlas labels show`
    command.__doc__ = help_of(kind, [f"atlas plot {name}{given} --out {name}.png"])
    return with_options(command, kind)


def _drawing_request(kind: type[Any]) -> Callable[..., None]:
    """The command that draws the answer of a request, which runs a model."""

    def command(
        *, out: Out = None, no_progress: NoProgress = False, output: Output, atlas: AtlasPath = None, **given: Any
    ) -> None:
        form = output.chosen()
        check_out(out)
        path = existing(atlas)
        request = filled(kind, given)
        with progressing(no_progress) as progress:
            answer = request.perform(path, progress)
        note_model(request, answer.facts["model"])
        _show(answer, form, out)

    command.__doc__ = help_of(kind)
    return with_options(command, kind)


def _show(answer: Answer, form: str, out: Path | None) -> None:
    """Print an answer, and draw it where a file is given."""
    print_answer(answer, form)
    if out is not None:
        draw_to(answer, out)


def draw_to(answer: Answer, out: Path) -> None:
    """Draw an answer into a file, and tell its name."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure = answer.plot().figure
    save(figure, out)
    plt.close(figure)
    tell(out)


for _name in registry.names(atlas.figures):
    try:
        _request = getattr(getattr(Requests, _name, None), "request", None)
        _command = _drawing_request(_request) if _request else _drawing(question_named(_name))
        app.command(_name.replace("_", "-"))(_command)
    except AtlasError as error:  # a plug-in's figure of no question
        warnings.warn(f"the figure '{_name}' cannot be drawn: {error}", AtlasWarning, stacklevel=1)
