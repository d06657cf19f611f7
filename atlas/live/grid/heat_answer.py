"""Neurons' values on what a model was shown: rows of numbers, and with them what a figure needs to draw them."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from atlas.live.grid.heatmap import PERCENTILE, Floats, Mask, iou, percentile_mask, pointing
from atlas.live.media import Sound
from atlas.neurons import Neuron
from atlas.query.answer import Answer
from atlas.query.html import SHOWN_ROWS

ROWS = pa.schema(
    [
        ("component", pa.string()),
        ("layer", pa.int16()),
        ("neuron", pa.int32()),
        ("source", pa.string()),
        ("shown", pa.string()),
        ("example", pa.string()),
        ("run", pa.string()),
        ("max", pa.float32()),
        ("mean", pa.float32()),
        ("above_zero", pa.float32()),
        ("iou", pa.float32()),
        ("pointing", pa.float32()),
    ]
)


@dataclass(frozen=True, slots=True)
class Shown:
    """A part of a prompt whose tokens have values: a picture, a frame, a recording, or words.

    name: a file, a dataset's pointer, or for words the prompt. source: image, video, audio or text. number: of the
    picture, or of the step of a video's time, from 0. pixels: (height, width, 3) uint8, where it can be seen. region:
    (height, width) bool, the pixels that show the `concept`, where that is known. words: each token as text, where it
    has no place in a picture. sound: the recording. example: the id of a stored example; run: whose exemplar it is.
    stored: the neuron's stored largest value on it, and the token where it was.
    """

    name: str
    source: str
    number: int = 0
    pixels: NDArray[np.uint8] | None = None
    region: Mask | None = None
    concept: str | None = None
    words: tuple[str, ...] = ()
    sound: Sound | None = None
    example: str | None = None
    run: str | None = None
    stored: tuple[float, str] | None = None

    @property
    def key(self) -> tuple[str, str | None]:
        """What is one row: a video has one for all of its frames."""
        return self.name, self.example


@dataclass(frozen=True, slots=True)
class Panel:
    """One neuron's values on one thing that was shown.

    neuron: None for the mean over several. decoded: tokens that it raises. values: (tokens,). heat: the map, (height,
    width), NaN where no token sees the picture; None for tokens without a place. mask: (height, width) bool, the part
    of the map above the percentile. random: the mean IoU of as many random neurons, where there is a region.
    """

    neuron: Neuron | None
    shown: Shown
    values: Floats
    heat: Floats | None = None
    decoded: tuple[str, ...] = ()
    percentile: float = PERCENTILE
    random: float | None = None
    mask: Mask | None = field(init=False)

    def __post_init__(self) -> None:
        mask = None if self.heat is None else percentile_mask(self.heat, self.percentile)
        object.__setattr__(self, "mask", mask)

    @property
    def iou(self) -> float | None:
        """Of the mask and the region; None where either is missing, or no token sees the region."""
        if self.heat is None or self.mask is None or self.shown.region is None:
            return None
        return _number(iou(self.mask, self.shown.region, ~np.isnan(self.heat)))

    @property
    def pointing(self) -> float | None:
        """Whether the largest value lies in the region; None as for `iou`."""
        if self.heat is None or self.shown.region is None:
            return None
        return _number(pointing(self.heat, self.shown.region))


class HeatAnswer(Answer):
    """One row a neuron and what was shown: largest value, mean and share above 0 over its tokens, IoU and pointing.

    panels: what a figure draws, one a neuron and picture, frame, recording or text. controls: the same of random
    neurons, where the pictures have a region; the part `random` has their rows.
    """

    panels: tuple[Panel, ...] = ()
    controls: tuple[Panel, ...] = ()

    def _repr_html_(self) -> str:
        """The rows and, of as many as are shown, the figure."""
        return super()._repr_html_() + _drawn(self)

    def means(self) -> list[Panel]:
        """The mean over the neurons, for everything that was shown to several, in the order of the panels; beside it,
        the IoU of the mean over as many random ones."""
        beside = by_shown(self.controls)
        return [
            mean_of(group, mean_of(beside[key][: len(group)]).iou if key in beside else None)
            for key, group in by_shown(self.panels).items()
            if len(group) > 1
        ]

    def _like(self, table: pa.Table) -> Self:
        """The same answer with other rows, and their panels only."""
        new = super()._like(table)
        kept = {key_of(row) for row in table.to_pylist()} if {*ROWS.names[:6]} <= {*table.column_names} else set()
        new.panels = tuple(p for p in self.panels if (p.neuron, *p.shown.key) in kept)
        return new


class HeatmapsAnswer(Answer):
    """One row a neuron, over many pictures that show a concept.

    maps: neuron -> its mean map, (side, side), every picture squeezed into a square. where: (side, side), the share of
    the pictures that show the concept there. decoded: neuron -> tokens that it raises.
    """

    maps: Mapping[Neuron, Floats]
    where: Floats
    decoded: Mapping[Neuron, tuple[str, ...]]

    def _repr_html_(self) -> str:
        """The rows and, of as many as are shown, the figure."""
        return super()._repr_html_() + _drawn(self)


def _drawn(answer: Answer) -> str:
    """The figure of the first rows, for a notebook."""
    inline = importlib.import_module("atlas.figures._inline")
    return str(inline.figure_html(answer[:SHOWN_ROWS])) if len(answer) else ""


def key_of(row: dict[str, Any]) -> tuple[Neuron, str, str | None]:
    """Which panels a row is about."""
    return Neuron(row["component"], row["layer"], row["neuron"]), row["shown"], row["example"]


def by_shown(panels: Sequence[Panel]) -> dict[tuple[Any, ...], list[Panel]]:
    """Panels by the picture, frame, recording or text that they are of."""
    groups: dict[tuple[Any, ...], list[Panel]] = {}
    for panel in panels:
        groups.setdefault((panel.shown.key, panel.shown.number), []).append(panel)
    return groups


def mean_of(panels: Sequence[Panel], random: float | None = None) -> Panel:
    """The mean of several neurons' values on the same thing. random: the IoU to show beside its own."""
    first = panels[0]
    heats = [p.heat for p in panels if p.heat is not None]
    values = np.mean([p.values for p in panels], 0)
    heat = np.mean(heats, 0) if len(heats) == len(panels) else None
    return Panel(None, replace(first.shown, stored=None), values, heat, (), first.percentile, random)


def rows_of(panels: Sequence[Panel]) -> pa.Table:
    """One row a neuron and what was shown, in the order of the panels; the frames of a video together."""
    groups: dict[tuple[Any, ...], list[Panel]] = {}
    for panel in panels:
        groups.setdefault((panel.neuron, *panel.shown.key), []).append(panel)
    return pa.Table.from_pylist([_row(group) for group in groups.values()], schema=ROWS)


def _row(panels: Sequence[Panel]) -> dict[str, Any]:
    neuron, shown = panels[0].neuron, panels[0].shown
    assert neuron is not None
    values = np.concatenate([p.values for p in panels])
    return {
        "component": neuron.component,
        "layer": neuron.layer,
        "neuron": neuron.index,
        "source": shown.source,
        "shown": shown.name,
        "example": shown.example,
        "run": shown.run,
        "max": float(values.max()) + 0.0,  # not -0
        "mean": float(values.mean()) + 0.0,
        "above_zero": float((values > 0).mean()),
        "iou": average([p.iou for p in panels]),
        "pointing": average([p.pointing for p in panels]),
    }


def average(numbers: Sequence[float | None]) -> float | None:
    """The mean of those that are known; None where none is."""
    known = [number for number in numbers if number is not None]
    return float(np.mean(known)) if known else None


def _number(value: float) -> float | None:
    return None if np.isnan(value) else value
