"""Parts of the figures of heatmaps: one neuron's values on a picture, on words, on a spectrogram, or as a strip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from atlas.figures._parts import shortened
from atlas.figures._style import MAGNITUDES, SIGNED, around_zero

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    from atlas.live.grid.heat_answer import Panel, Shown
    from atlas.live.grid.heatmap import Mask

OPAQUE = 0.6
"""How much of a picture its map covers."""

ABOVE, REGION = "#009e73", "#ffffff"
"""The colours of the outline of the map's part above the percentile, and of the concept's region."""

SLIGHT = 0.05
"""Share of the largest value that the lowest may be below 0 in a map of magnitudes."""

LETTERS = (5.5, 7.0)
"""The size of shaded words, in points: in a narrow panel, and in one of a column's width."""

MONO, SPACING = 0.602, 1.5
"""The width of a character of DejaVu Sans Mono, and the height of a line, in shares of its size."""

ROOM = 0.92
"""Share of a panel's place that is left of it when titles and colour bars have theirs."""


@dataclass(frozen=True, slots=True)
class Scale:
    """colours: the name of a colour map. norm: from a value to its place on it."""

    colours: str
    norm: Normalize

    def colour(self, value: float) -> Any:
        """Red, green, blue and opacity of a value."""
        return self.mappable.to_rgba(np.array([value]), alpha=OPAQUE)[0]

    @property
    def mappable(self) -> ScalarMappable:
        """For a colour bar."""
        from matplotlib.cm import ScalarMappable

        return ScalarMappable(self.norm, self.colours)


def scale_of(values: Sequence[Any]) -> Scale | None:
    """Colours for values that are compared with each other: from 0 on, or around 0 where some are below it.

    None where all are the same.
    """
    from matplotlib.colors import Normalize

    numbers = np.concatenate([np.ravel(part) for part in values]) if values else np.zeros(0)
    numbers = numbers[~np.isnan(numbers)]
    if not numbers.size or numbers.min() == numbers.max():
        return None
    least, most = float(numbers.min()), float(numbers.max())
    if least >= -SLIGHT * max(most, 0.0):
        return Scale(MAGNITUDES, Normalize(min(least, 0.0), most))
    return Scale(SIGNED, around_zero([least, most]))


def content(panel: Panel) -> Any:
    """What a panel's colours stand for: the map, or the values of its tokens."""
    return panel.values if panel.heat is None else panel.heat


def add_bar(axes: Axes | Sequence[Axes], scale: Scale, *, unit: str = "activation", **place: Any) -> None:
    """A slim colour bar beside one panel or several. unit: its label. place: of `Figure.colorbar`."""
    of_all = [axes] if not isinstance(axes, Sequence) else list(axes)
    figure: Any = of_all[0].figure
    bar = figure.colorbar(scale.mappable, ax=of_all, **place)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=5, length=1.5, pad=1)
    bar.ax.locator_params(nbins=4)
    bar.set_label(unit, fontsize=6, labelpad=2)


def draw_panel(axis: Axes, panel: Panel, scale: Scale | None) -> None:
    """One neuron's values on what was shown."""
    if panel.heat is not None:
        draw_map(axis, panel, scale)
    elif panel.shown.words:
        draw_words(axis, panel, scale)
    elif panel.shown.sound is not None:
        _draw_sound(axis, panel, scale)
    else:
        _draw_strip(axis, panel, scale)


def draw_picture(axis: Axes, shown: Shown) -> None:
    """The picture itself, with its concept's region outlined."""
    assert shown.pixels is not None
    axis.imshow(shown.pixels)
    _outline_region(axis, shown)
    _bare(axis)


def draw_map(axis: Axes, panel: Panel, scale: Scale | None) -> None:
    """The map over the picture in grey; what no token sees is pale."""
    shown, heat = panel.shown, panel.heat
    assert shown.pixels is not None and heat is not None
    grey = shown.pixels @ np.array([0.299, 0.587, 0.114])
    axis.imshow(grey, cmap="gray", vmin=0, vmax=255)
    unseen = np.isnan(heat)
    if scale is not None:
        axis.imshow(np.ma.masked_array(heat, unseen), cmap=scale.colours, norm=scale.norm, alpha=OPAQUE)
    if unseen.any():
        veil = np.ones((*heat.shape, 4))
        veil[..., 3] = 0.75 * unseen
        axis.imshow(veil)
    _outline_region(axis, shown)
    if panel.mask is not None and panel.mask.any():
        _outline(axis, panel.mask, colors=["white"], linewidths=2.0)
        _outline(axis, panel.mask, colors=[ABOVE], linewidths=1.2)
    _bare(axis)


def _outline_region(axis: Axes, shown: Shown) -> None:
    if shown.region is not None:
        _outline(axis, shown.region, colors=["black"], linewidths=1.3)
        _outline(axis, shown.region, colors=[REGION], linewidths=0.7, linestyles="dashed")


def _outline(axis: Axes, part: Mask, **look: Any) -> None:
    """The edge of a part of a picture; none of the whole, nor in a picture of one row or column of pixels."""
    if min(part.shape) > 1 and not part.all():
        axis.contour(part, [0.5], **look)


def _bare(axis: Axes) -> None:
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[["left", "bottom"]].set_visible(False)


def draw_words(axis: Axes, panel: Panel, scale: Scale | None) -> None:
    """Tokens shaded by their values, in lines; of a long text, the lines around the largest value."""
    from matplotlib.patches import Rectangle

    figure = axis.figure.get_figure(root=True)
    size_of_figure = figure.get_size_inches()
    width, height = (72 * ROOM * float(side) for side in axis.get_position().size * size_of_figure)  # points
    size = LETTERS[0] if width < 130 else LETTERS[1]
    columns, lines = int(width / (size * MONO)), max(2, int(height / (size * SPACING)))
    for word, line, column, value in placed(panel, columns, lines):
        colour = "white" if scale is None else scale.colour(value)
        axis.add_patch(Rectangle((column, line), len(word), 0.94, facecolor=colour, linewidth=0))
        axis.text(column, line + 0.5, word, fontsize=size, family="DejaVu Sans Mono", va="center_baseline")
    axis.set_xlim(0, columns)
    axis.set_ylim(lines, 0)
    _bare(axis)


def placed(panel: Panel, columns: int, lines: int) -> list[tuple[str, int, int, float]]:
    """Each token that is shown, with its line, first column and value."""
    rows: list[list[tuple[str, int, float]]] = [[]]
    column = 0
    for word, value in zip(panel.shown.words, panel.values, strict=True):
        text = drawable(word)[:columns] or " "
        if column + len(text) > columns:
            rows.append([])
            column, text = 0, text.lstrip() or " "
        rows[-1].append((text, column, float(value)))
        column += len(text)
    largest = float(panel.values.max())
    peak = next(i for i, row in enumerate(rows) if any(value == largest for _, _, value in row))
    first = max(0, min(peak - lines // 2, len(rows) - lines))
    return [(t, i, c, v) for i, row in enumerate(rows[first : first + lines]) for t, c, v in row]


def _draw_strip(axis: Axes, panel: Panel, scale: Scale | None) -> None:
    """One row of values, of tokens without a place; below the picture, where there is one."""
    strip, tokens = axis, f"{len(panel.values)} {panel.shown.source} token{'s' * (len(panel.values) != 1)}"
    if panel.shown.pixels is not None:
        axis.imshow(panel.shown.pixels)
        strip = axis.inset_axes((0.0, -0.14, 1.0, 0.1))
        height = axis.get_position().height * float(axis.figure.get_figure(root=True).get_size_inches()[1])
        axis.set_xlabel(tokens, labelpad=72 * 0.14 * height)  # below the strip, which has no place of its own
    else:
        axis.set_xlabel(tokens, labelpad=1)
    colours, norm = (MAGNITUDES, None) if scale is None else (scale.colours, scale.norm)
    strip.imshow(panel.values[None], aspect="auto", extent=(0, len(panel.values), 0, 1), cmap=colours, norm=norm)
    _bare(axis)
    _bare(strip)


def _draw_sound(axis: Axes, panel: Panel, scale: Scale | None) -> None:
    """The spectrogram in grey, and over it the values, each for an equal share of the time."""
    from scipy.signal import spectrogram

    sound = panel.shown.sound
    assert sound is not None
    window = min(512, len(sound.samples))
    frequencies, _, power = spectrogram(sound.samples, sound.rate, nperseg=window, noverlap=window // 2)
    decibels = 10 * np.log10(power + 1e-10)
    top = float(decibels.max())
    place = (0.0, len(sound.samples) / sound.rate, 0.0, float(frequencies[-1]) / 1000)
    axis.imshow(decibels, origin="lower", aspect="auto", extent=place, cmap="gray", vmin=top - 70, vmax=top)
    if scale is not None:
        values = panel.values[None]
        axis.imshow(values, aspect="auto", extent=place, cmap=scale.colours, norm=scale.norm, alpha=OPAQUE)
    axis.set_xlabel("time, s", labelpad=1)
    axis.set_ylabel("frequency, kHz", labelpad=1)


def title_of(panel: Panel, length: int) -> str:
    """The neuron and tokens that it raises, in so many characters."""
    if panel.neuron is None:
        return "mean"
    raised = ", ".join(" ".join(drawable(token).split()) or repr(token) for token in panel.decoded)
    return shortened(f"{panel.neuron}  {raised}".rstrip(), length)


def drawable(text: str) -> str:
    """A token with signs that the figures' font has: line ends as arrows, and a box for every other that it lacks."""
    known = _signs()
    text = text.replace("\r\n", "\n").replace("\n", "↵").replace("\t", "→")
    return "".join(sign if ord(sign) in known and sign.isprintable() else "□" for sign in text)


@cache
def _signs() -> frozenset[int]:
    from matplotlib import font_manager

    return frozenset(font_manager.get_font(font_manager.findfont("DejaVu Sans Mono")).get_charmap())
