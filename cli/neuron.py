"""`atlas neuron`: one neuron, and its strongest examples as pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from atlas.questions.neuron import Neuron
from cli.common import AtlasPath, resolve, say
from cli.options import filled
from cli.questions import help_of, print_answer, with_options
from cli.render import Output

GalleryFile = Annotated[
    Path | None,
    typer.Option(
        help="A .png, .svg or .pdf: draw its strongest examples, with its activation on them. The model is run; `atlas "
        "plot gallery` says how."
    ),
]


def _neuron(*, gallery: GalleryFile = None, output: Output, atlas: AtlasPath = None, **given: Any) -> None:
    form = output.chosen()
    if gallery is not None:
        from cli.plot import check_out

        check_out(gallery)
    profile = filled(Neuron, given).ask(resolve(atlas))
    print_answer(profile, form)
    if gallery is not None:
        from cli.plot import draw_to

        pictures = profile.gallery()
        for note in pictures.notes:
            say(note)
        draw_to(pictures, gallery)


_neuron.__doc__ = help_of(Neuron, [*Neuron.examples, "atlas neuron 3/117 --gallery exemplars.png"])
neuron = with_options(_neuron, Neuron)
