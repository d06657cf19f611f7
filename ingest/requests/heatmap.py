"""A neuron's activation over the tokens of a picture, laid on the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from atlas.errors import UsageError
from atlas.neurons import Neuron as Address
from atlas.query.map_spec import COORDINATES
from atlas.query.map_spec import by_place as coordinate
from atlas.query.option import REPEATED, by_place, described, option, options_of
from atlas.questions._conditions import Conditions
from ingest.requests.heatmap_model import StoredModel, addressed, load_stored, neurons_of, stored_model
from ingest.requests.options import EXECUTION, LoadOptions, ModelOptions
from ingest.requests.progress import Progress, silent
from ingest.requests.request import Request

if TYPE_CHECKING:
    from atlas.live.grid.heat_answer import HeatAnswer
    from atlas.live.model import LiveModel
    from atlas.query.provenance import Provenance
    from ingest.analyse.heat_examples import Gathered

WITH_ADDRESS = ("model", "concept", "source", "tap")
"""Which coordinates mean something where a neuron is named."""

CONDITIONS = {*options_of(Conditions)} - {*WITH_ADDRESS}

SIDE = 640
"""The longest side of a map, in pixels."""

BEST = 10
"""How many of a concept's neurons are shown by default."""


@described
class Heatmap(Request["HeatAnswer"], LoadOptions, Conditions, ModelOptions):
    """A neuron's activation over the tokens of a picture, laid on the picture; or that of a concept's best neurons.

    It is looked at on pictures, videos, recordings or a prompt alone, on a stored example, or on the stored examples
    that excite the neuron most. One row a neuron and what was shown: max, mean and above_zero (a share) over its
    tokens; where the dataset knows which pixels show the concept, iou of the map's part above the percentile with them,
    and pointing, whether the largest value lies in them. The part `random` has the same of as many random neurons of
    the same layers. Tokens without a place in the picture (Q-Former, pooled) and words are a strip, without an IoU.

    Raises:
        UsageError: not a neuron of the model, nothing to show, or a model that the atlas does not know.
        BadMedia: a picture, recording or video that is missing or cannot be read.
    """

    examples: ClassVar[tuple[str, ...]] = (
        "atlas plot heatmap 3/117 --image scenes:held_out/0 --out heatmap.png",
        "atlas plot heatmap --concept dog --image scenes:held_out/3 --top 10 --out heatmap.png",
        "atlas plot heatmap 3/117 --exemplars 5 --out heatmap.png",
    )

    address: str | Address | None = option(
        "layer/index, for example 3/117; or give a [[concept]].", default=None, argument=True, kw_only=False
    )
    image: Sequence[str] | None = option(
        "A picture: a file, or DATASET:POINTER; repeatable.", "--image", "-i", default=None, several=REPEATED
    )
    audio: Sequence[str] | None = option("A recording: a file, or DATASET:POINTER.", default=None, several=REPEATED)
    video: Sequence[str] | None = option(
        "A video: a file, a folder of pictures, or DATASET:POINTER.", default=None, several=REPEATED
    )
    prompt: str | None = option(
        "What is asked. Alone: its words are what is looked at. [default: what is this?]",
        "--prompt",
        "-p",
        default=None,
    )
    example: str | None = option("A stored example, by the beginning of its id.", default=None)
    exemplars: int | None = option(
        "The stored examples that excite the neuron most, at most so many of each source.", default=None, least=1
    )
    model: str | None = by_place(ModelOptions, "model", default=None, kw_only=True)
    concept: str | None = coordinate("concept", default=None, kw_only=True)
    method: str | None = coordinate("method", default=None, kw_only=True)
    top: int = option("How many of the concept's best neurons.", "--top", "-n", default=BEST, least=1)
    mask_percentile: float = option("The map's part above this percentile is compared and outlined.", default=95.0)
    seed: int = option("Of the random neurons.", default=0)
    batch_size: int = option("Examples in one forward pass.", default=8, of=EXECUTION, least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.address is None and self.concept is None and not self.conditions():
            raise UsageError("give a neuron, for example 3/117, or a [[concept]] whose best neurons are shown")
        if self.address is not None:
            given = [f.name for f in fields(self) if f.name in CONDITIONS and getattr(self, f.name) is not None]
            given += ["top"] if self.top != BEST else []
            if given:
                raise UsageError(f"[[{given[0]}]] chooses among a concept's neurons; leave it out, or the address")
            if self.source is not None and self.exemplars is None:
                raise UsageError(
                    "[[source]] chooses among a neuron's [[exemplars]]; leave it out, or give their number"
                )
        looked = (self.image or self.audio or self.video or self.prompt, self.example, self.exemplars)
        if sum(bool(each) for each in looked) != 1:
            raise UsageError(
                "show one thing: [[image]], [[audio]], [[video]] or [[prompt]]; or a stored [[example]]; or the "
                "neuron's [[exemplars]]"
            )
        if self.exemplars is not None and self.address is None:
            raise UsageError("[[exemplars]] are of one neuron; give its address, for example 3/117")
        if not 0 <= self.mask_percentile < 100:
            raise UsageError("[[mask_percentile]] must be from 0 to below 100")

    def perform(self, path: Path, progress: Progress = silent) -> HeatAnswer:
        answer = self.look(path, progress)
        answer.question = self
        return answer

    def look(
        self, path: Path, progress: Progress, side: int = SIDE, loaded: tuple[LiveModel, StoredModel] | None = None
    ) -> HeatAnswer:
        """The answer, with maps whose longest side has so many pixels; pictures that are larger are made smaller.

        loaded: the model, and how the atlas knows it, where it is loaded already.
        """
        from ingest.requests.heatmap_answer import Settings, answer_of

        live, model = loaded or (None, stored_model(path, self.model, self.coordinates()))
        if model is None:  # it is known by its weights alone
            live, model = load_stored(path, self, None)
        neurons, provenance = self._neurons(path, model)
        shown = self._shown(path, neurons, model)
        if live is None:
            live, model = load_stored(path, self, model)
        settings = Settings(self.concept, self.tap, self.mask_percentile, self.seed, self.batch_size, side)
        return answer_of(path, settings, live, model, neurons, shown, provenance, progress)

    def _neurons(self, path: Path, model: StoredModel) -> tuple[list[Address], Provenance]:
        """The neurons to look at, and where they come from."""
        if self.address is not None:
            return addressed(model, self.address)
        names = {name: getattr(self, name) for name in COORDINATES} | {"model": model.name}
        return neurons_of(path, model, names | self.conditions() | {"select": self.select}, self.top)

    def _shown(self, path: Path, neurons: Sequence[Address], model: StoredModel) -> Gathered:
        """What they are looked at on, opened."""
        from ingest.analyse.heat_examples import Gathered, exemplars, from_files, stored_example

        if self.exemplars is not None:
            return exemplars(path, neurons[0], model.model_id, self.exemplars, self.source)
        if self.example is not None:
            return stored_example(path, self.example, model.model_id)
        return Gathered(from_files(self.prompt, self.image, self.audio, self.video))
