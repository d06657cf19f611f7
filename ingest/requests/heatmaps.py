"""Which neurons look where a concept is: their maps over the pictures that show it, beside chance."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from atlas.errors import UsageError
from atlas.neurons import Neuron as Address
from atlas.query.map_spec import COORDINATES, MapSpec
from atlas.query.map_spec import by_place as coordinate
from atlas.query.option import by_place, described, option
from atlas.query.resolve_maps import choose_map
from atlas.query.statements import find_maps
from atlas.questions._conditions import Conditions
from atlas.store.database import open_readonly
from ingest.requests.heatmap_model import (
    StoredModel,
    addressed,
    decoded_tokens,
    load_stored,
    neurons_of,
    stored_model,
)
from ingest.requests.options import EXECUTION, LoadOptions, ModelOptions
from ingest.requests.progress import Progress, silent
from ingest.requests.request import Request

if TYPE_CHECKING:
    from atlas.live.grid.heat_answer import HeatmapsAnswer

SIDE = 224
"""The longest side of a map, in pixels, before it is squeezed into a square."""

IOU = "iou"
"""The method that stores what is computed here, of every neuron."""

NOTES = 3
"""Notes on single pictures that are told."""


@described
class Heatmaps(Request["HeatmapsAnswer"], LoadOptions, Conditions, ModelOptions):
    """Which of a concept's best neurons look where the concept is, over the stored pictures that show it.

    One row a neuron: iou, the mean over pictures of the intersection over union of its map's part above the percentile
    with the concept's pixels, with its 95 % interval (low, high); other_region, the same with the pixels of another
    picture's, which a neuron reaches that always looks at one place; pointing, how often its largest value lies in the
    concept. The part `random` has the same of random neurons of the same layers. The figure shows where the maps are
    large on average, and where the concept is. Nothing is stored: the method `iou` of `atlas ingest` does the same for
    every neuron, and stores it.

    Raises:
        UsageError: no concept, no such map, or no stored picture whose dataset knows where the concept is.
    """

    examples: ClassVar[tuple[str, ...]] = ("atlas plot heatmaps --concept dog --method activation --out heatmaps.png",)

    address: str | Address | None = option(
        "layer/index: this neuron instead of the concept's best.", default=None, argument=True, kw_only=False
    )
    pictures: int = option("At most so many stored pictures that show the concept.", default=40, least=2)
    model: str | None = by_place(ModelOptions, "model", default=None, kw_only=True)
    concept: str | None = coordinate("concept", default=None, kw_only=True)
    method: str | None = coordinate("method", default=None, kw_only=True)
    top: int = option("How many of the concept's best neurons.", "--top", "-n", default=10, least=1)
    mask_percentile: float = option("The map's part above this percentile is compared.", default=95.0)
    seed: int = option("Of the random neurons.", default=0)
    batch_size: int = option("Examples in one forward pass.", default=8, of=EXECUTION, least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.concept is None:
            raise UsageError("give a [[concept]], whose pixels the maps are compared with")
        if not 0 <= self.mask_percentile < 100:
            raise UsageError("[[mask_percentile]] must be from 0 to below 100")

    def perform(self, path: Path, progress: Progress = silent) -> HeatmapsAnswer:
        from atlas.live.grid.heat_answer import HeatmapsAnswer
        from ingest.analyse.heat import Look, look_at
        from ingest.analyse.heat_dataset import rows_of, tally
        from ingest.analyse.heat_examples import showing
        from ingest.requests.heatmap_answer import random_beside, tap_of

        live = None
        model = stored_model(path, self.model, self.coordinates())
        if model is None:  # it is known by its weights alone
            live, model = load_stored(path, self, None)
        origin = self._map(path, model)
        neurons, provenance = self._neurons(path, model)
        gathered = showing(path, origin["run_id"], origin["concept"], self.pictures)
        if len(gathered.shown) < 2:
            raise UsageError(f"fewer than two stored pictures that show {origin['concept']} can be opened")
        if live is None:
            live, model = load_stored(path, self, model)
        tokens = decoded_tokens(path, model, neurons)
        tap = self.tap or gathered.tap or tap_of(provenance)
        controls, matched = random_beside(path, model, tap, neurons, self.seed)
        look = Look(neurons, controls, tap, origin["concept"], self.mask_percentile, SIDE)
        tallies = tally(look_at(live, gathered.shown, look, self.batch_size, progress))
        if not tallies.regions:
            raise UsageError(
                f"there is no picture on which a map can be compared with {origin['concept']}: "
                f"{tallies.notes[0] if tallies.notes else 'nothing was seen'}"
            )
        table, random = rows_of(tallies.neurons, tallies.regions), rows_of(tallies.controls, tallies.regions)
        facts = {"model": model.name, "fingerprint": live.fingerprint, "concept": origin["concept"], "tap": tap}
        facts["matched"] = matched
        notes = _first([*gathered.notes, *dict.fromkeys(tallies.notes)])
        answer = HeatmapsAnswer(table, provenance, facts=facts | _means(table, random), notes=notes)
        answer.parts = {"random": random}
        answer.maps = {neuron: of.mean for neuron, of in tallies.neurons.items()}
        answer.where, answer.decoded = tallies.where, tokens
        answer.notes += (*_sentence(answer), *self._circular(), _of_every_neuron(path, model, origin))
        answer.question = self
        return answer

    def _circular(self) -> tuple[str, ...]:
        """That neurons which were chosen by IoU are measured on the pictures that chose them."""
        if self.address is None and (self.method or "").partition(".")[0] == IOU:
            return ("chosen by IoU on these pictures: of others it will be less",)
        return ()

    def _map(self, path: Path, model: StoredModel) -> Any:
        """The concept's map, whose run's dataset has the pictures."""
        asked = {key: value for key in ("dataset", "run") if (value := getattr(self, key)) is not None}
        with open_readonly(path) as connection:
            return choose_map(connection, MapSpec(self.concept, model=model.name, source="image", **asked)).row

    def _neurons(self, path: Path, model: StoredModel) -> Any:
        if self.address is not None:
            if self.conditions() or self.method is not None or self.select is not None:
                raise UsageError("[[method]] and conditions choose among a concept's neurons; leave out the address")
            return addressed(model, self.address)
        names = {name: getattr(self, name) for name in COORDINATES} | {"model": model.name}
        return neurons_of(path, model, names | self.conditions() | {"select": self.select}, self.top)


def _of_every_neuron(path: Path, model: StoredModel, origin: Any) -> str:
    """Where the IoU of every neuron is stored, or what stores it."""
    concept, asked = origin["concept"], MapSpec(origin["concept"], IOU, fingerprint=model.fingerprint)
    with open_readonly(path) as connection:
        stored = find_maps(asked).run(connection).num_rows
    if stored:
        return f"every neuron's IoU is stored: `atlas query --concept {shlex.quote(concept)} --method {IOU}`"
    return f"`atlas ingest --methods {IOU}` stores the IoU of every neuron, beside that with another picture's region"


def _first(notes: list[str]) -> list[str]:
    """The first notes, and how many more there are."""
    more = [f"{len(notes) - NOTES} more notes like these"] if len(notes) > NOTES else []
    return [*notes[:NOTES], *more]


def _means(table: Any, random: Any) -> dict[str, float | None]:
    """Means over neurons, beside those over random ones."""
    import pyarrow.compute as pc

    return {
        "iou": pc.mean(table["iou"]).as_py(),
        "other_region_iou": pc.mean(table["other_region"]).as_py(),
        "random_iou": pc.mean(random["iou"]).as_py(),
    }


def _sentence(answer: HeatmapsAnswer) -> tuple[str, ...]:
    """The comparison with other pictures' regions and with random neurons."""
    from ingest.requests.heatmap_answer import beside_random

    facts = answer.facts
    if None in (facts["iou"], facts["other_region_iou"], facts["random_iou"]):
        return ()
    return (
        f"IoU {facts['iou']:.2f} with {facts['concept']}, {facts['other_region_iou']:.2f} with where it is in another "
        f"picture, {beside_random(facts['random_iou'], facts['matched'], answer.parts['random']['iou'].to_pylist())}",
    )
