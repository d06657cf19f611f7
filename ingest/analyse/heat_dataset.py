"""Neurons' maps over many pictures: how well they find a concept's pixels, beside chance, and where they are large.

Every picture is squeezed into a square of SIDE x SIDE, so that the pixels of one can be compared with those of another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from atlas.live.grid.heat_answer import Panel
from atlas.live.grid.heatmap import Floats, Mask, iou, resampled
from atlas.neurons import Neuron
from atlas.stats.intervals import of_values
from ingest.analyse.heat import Seen

SIDE = 64

ROWS = pa.schema(
    [("component", pa.string()), ("layer", pa.int16()), ("neuron", pa.int32()), ("pictures", pa.int32())]
    + [(name, pa.float32()) for name in ("iou", "low", "high", "other_region", "pointing")]
)


@dataclass
class Tally:
    """One neuron over pictures. masks: the part of each map above the percentile, and what tokens see. sums, counts:
    of values and pictures at each place, (SIDE, SIDE)."""

    masks: list[tuple[Mask, Mask]] = field(default_factory=list)
    pointings: list[float] = field(default_factory=list)
    sums: NDArray[np.float64] = field(default_factory=lambda: np.zeros((SIDE, SIDE)))
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros((SIDE, SIDE), np.int64))

    def add(self, panel: Panel) -> None:
        """Add a panel with a map and a region."""
        heat: Any = panel.heat
        rows, columns = (((np.arange(SIDE) + 0.5) / SIDE * size).astype(int) for size in heat.shape)
        square = heat[np.ix_(rows, columns)]
        seen = ~np.isnan(square)
        assert panel.mask is not None
        self.masks.append((resampled(panel.mask, (SIDE, SIDE)), seen))
        if panel.pointing is not None:
            self.pointings.append(panel.pointing)
        self.sums += np.where(seen, square, 0)
        self.counts += seen

    @property
    def mean(self) -> Floats:
        """(SIDE, SIDE), NaN where no picture is seen."""
        mean: Floats = np.where(self.counts > 0, self.sums / np.maximum(self.counts, 1), np.nan)
        return mean


@dataclass
class Tallies:
    """Of neurons and of random ones. regions: of each picture, (SIDE, SIDE) bool."""

    neurons: dict[Neuron, Tally] = field(default_factory=dict)
    controls: dict[Neuron, Tally] = field(default_factory=dict)
    regions: list[Mask] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def where(self) -> Floats:
        """(SIDE, SIDE): the share of the pictures that show the concept there."""
        share: Floats = np.mean(self.regions, 0)
        return share


def tally(seen_of_all: Iterable[Seen]) -> Tallies:
    """Add up what was seen, picture by picture; those without a map or a region are told in the notes."""
    tallies = Tallies()
    for seen in seen_of_all:
        tallies.notes += seen.notes
        panels = [panel for panel in seen.panels if panel.heat is not None and panel.shown.region is not None]
        if not panels:
            continue
        first, region = panels[0].shown, panels[0].shown.region
        assert region is not None
        tallies.regions.append(resampled(region, (SIDE, SIDE)))
        for group, of_group in ((tallies.neurons, panels), (tallies.controls, seen.controls)):
            for panel in of_group:
                if (panel.shown.key, panel.shown.number) != (first.key, first.number):
                    continue  # a second picture of the same prompt
                assert panel.neuron is not None
                group.setdefault(panel.neuron, Tally()).add(panel)
    return tallies


def rows_of(tallies: Mapping[Neuron, Tally], regions: Sequence[Mask]) -> pa.Table:
    """One row a neuron: mean IoU with the concept's pixels and its 95 % interval over pictures, and with those of the
    next picture (the last one's with the first's), which a neuron reaches that always looks at the same place."""
    return pa.Table.from_pylist([_row(neuron, of, regions) for neuron, of in tallies.items()], schema=ROWS)


def _row(neuron: Neuron, of: Tally, regions: Sequence[Mask]) -> dict[str, Any]:
    own = _known([iou(mask, region, seen) for (mask, seen), region in zip(of.masks, regions, strict=True)])
    others = [*regions[1:], *regions[:1]] if len(regions) > 1 else []
    null = _known([iou(mask, region, seen) for (mask, seen), region in zip(of.masks, others, strict=False)])
    interval = of_values(own, (0.0, 1.0))
    return {
        "component": neuron.component,
        "layer": neuron.layer,
        "neuron": neuron.index,
        "pictures": len(own),
        "iou": float(np.mean(own)) if own else None,
        "low": interval.low,
        "high": interval.high,
        "other_region": float(np.mean(null)) if null else None,
        "pointing": float(np.mean(of.pointings)) if of.pointings else None,
    }


def _known(values: Sequence[float]) -> list[float]:
    return [value for value in values if not np.isnan(value)]
