"""A neuron's stored exemplars as pictures and texts, with its activation on them."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from atlas.neurons import Neuron as Address
from atlas.query.option import by_place, described, option, required
from ingest.requests.heatmap import Heatmap
from ingest.requests.options import EXECUTION, LoadOptions, ModelOptions
from ingest.requests.progress import Progress, silent
from ingest.requests.request import Request

if TYPE_CHECKING:
    from atlas.live.grid.heat_answer import HeatAnswer

SIDE = 400
"""The longest side of a picture, in pixels: a panel of the figure has no more."""


@described
class Gallery(Request["HeatAnswer"], LoadOptions, ModelOptions):
    """The stored examples that excite a neuron most, by source, as pictures with its activation laid on them, and texts
    with their words shaded by it.

    One row an example: max, mean and above_zero (a share) over the tokens of the picture or text. Examples whose files
    are gone are told in the notes.

    Raises:
        UsageError: not a neuron of the model, or none of its examples are stored.
    """

    examples: ClassVar[tuple[str, ...]] = ("atlas plot gallery 3/117 --source text --out gallery.png",)

    address: str | Address = required("layer/index, for example 3/117.", argument=True, kw_only=False)
    exemplars: int = option("At most so many of each source.", default=25, least=1)
    source: str | None = option("Only examples of this source: image, text, audio or video.", default=None)
    model: str | None = by_place(ModelOptions, "model", default=None, kw_only=True)
    batch_size: int = option("Examples in one forward pass.", default=8, of=EXECUTION, least=1)

    def perform(self, path: Path, progress: Progress = silent) -> HeatAnswer:
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        answer = Heatmap(**given).look(path, progress, SIDE)
        answer.question = self
        return answer
