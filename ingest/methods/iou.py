"""Which neurons look where the concept is: the overlap of their maps over the picture with the concept's pixels.

Network dissection (Bau et al. 2017), as Schwettmann et al. 2023 apply it to image tokens. With H[l, n] the neuron's
values at the picture's tokens laid on the picture (`atlas.live.grid.heatmap`), q their `percentile`, and R the pixels
that show the concept:

    M[l, n] = pixels with H[l, n] > q        S[l, n] = |M[l, n] and R| / |M[l, n] or R|

averaged over an example's pictures, and over the concept's examples. The part `iou.null` is the same with R of another
picture of the concept, drawn by the example's id: what a neuron reaches that always looks at one place, as things tend
to lie in the middle. Maps and regions are compared at `side` x `side` points (`ingest.attribution.region_overlap`).

It scores pictures whose dataset knows where the concept is, and models whose image tokens have a place in the picture.
Concepts are compared by their scores as they are, so it has no contrast.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from atlas.errors import UsageError
from atlas.live.grid.token_grids import Grid
from atlas.query.map_spec import NULL
from ingest.attribution.estimators import REGION, NeuronMap, PairMethod
from ingest.attribution.position_sums import sent
from ingest.attribution.reductions import MEAN
from ingest.attribution.region_overlap import covered, layout_of, overlaps, positions_of
from ingest.attribution.trace import Trace

IOU = ""
PARTS = (IOU, NULL)


@dataclass
class Picture:
    """One picture of a batch, and the regions that its maps are compared with.

    row: of the batch. grids: of the picture's tokens. regions: (points that are seen,) each. columns: each region's
    place among the parts and pairs, part by part.
    """

    row: int
    grids: tuple[Grid, ...]
    regions: list[Tensor] = field(default_factory=list)
    columns: list[int] = field(default_factory=list)


class Iou(PairMethod):
    """See the module. percentile, side: as in `build`."""

    needs = frozenset({REGION})
    sources: frozenset[str] | None = frozenset({"image"})
    supported = (MEAN,)

    def __init__(self, percentile: float, side: int):
        super().__init__()
        if not 0 <= percentile < 100 or not 2 <= side <= 1024:
            raise UsageError("iou: percentile must be from 0 to below 100, and side from 2 to 1024")
        self.percentile, self.side = percentile, side
        self.notes: dict[str, str] = {}

    def scored(self, trace: Trace) -> Sequence[bool]:
        """Whether the tokens see a region of each pair's concept."""
        return self.scored_by(IOU, trace)

    def scored_by(self, part: str, trace: Trace) -> Sequence[bool]:
        counts, pairs = self._counts(trace), len(trace.concepts)
        return [counts[PARTS.index(part) * pairs + pair] > 0 for pair in range(pairs)]

    def scores(self, trace: Trace) -> Mapping[str, Tensor]:
        layers, pairs, device = len(trace.layers), len(trace.concepts), trace.pairs.device
        means = torch.zeros(layers, len(PARTS) * pairs, trace.live.layout.width, device=device)
        counts = self._counts(trace)
        for picture in self._pictures(trace):
            layout = layout_of(picture.grids, self.side, device)
            positions, columns = sent(positions_of(picture.grids), device), sent(picture.columns, device)
            shares = sent([1.0 / counts[column] for column in picture.columns], device)
            regions = torch.stack(picture.regions, 1).to(device)
            for place, layer in enumerate(trace.layers):
                values = trace.capture.values[layer].detach()[picture.row, positions]
                found = overlaps(values, layout, regions, self.percentile).T
                means[place].index_add_(0, columns, found * shares[:, None])
        return dict(zip(PARTS, means.view(layers, len(PARTS), pairs, -1).unbind(1), strict=True))

    def _pictures(self, trace: Trace) -> Sequence[Picture]:
        """The batch's pictures with the regions of all concepts, as far as tokens see them."""
        key = ("regions", self.side)
        if key not in trace.shared:
            pictures: dict[tuple[int, tuple[Grid, ...]], Picture] = {}
            for pair, (row, concept) in enumerate(zip(trace.row_of, trace.concepts, strict=True)):
                for region in trace.items[row].regions.get(concept, ()):
                    seen = layout_of(region.grids, self.side, trace.pairs.device).seen
                    for part, mask in enumerate((region.own, region.other)):
                        shares = None if mask is None else covered(mask, self.side)[seen]
                        if shares is None or not shares.any():
                            break
                        picture = pictures.setdefault((row, region.grids), Picture(row, region.grids))
                        picture.regions.append(shares)
                        picture.columns.append(part * len(trace.concepts) + pair)
            trace.shared[key] = tuple(pictures.values())
        return trace.shared[key]  # type: ignore[no-any-return]

    def _counts(self, trace: Trace) -> Counter[int]:
        """How many regions each part and pair has."""
        return Counter(column for picture in self._pictures(trace) for column in picture.columns)

    def result(self) -> Iterator[NeuronMap]:
        maps = list(super().result())
        with_null = {neuron_map.concept for neuron_map in maps if neuron_map.part == NULL}
        for neuron_map in maps:
            if neuron_map.concept not in with_null:
                self.notes[str(neuron_map.concept)] = (
                    f"iou: no other picture of the run shows where {neuron_map.concept} is, so it has no null; ingest "
                    "more examples with [[per_concept]]"
                )
        yield from maps


def build(*, percentile: float = 95.0, side: int = 64) -> Iou:
    """percentile: what is above it of a map is compared. side: of the square of points at which maps are compared; more
    cost more."""
    return Iou(percentile, side)
