"""Neurons' activations laid on what a model was shown: a panel for each neuron, and the mean over them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from atlas.errors import UsageError
from atlas.figures._heat import ABOVE, add_bar, content, draw_panel, draw_picture, drawable, scale_of, title_of
from atlas.figures._parts import shortened
from atlas.figures._style import GREY, WIDTH, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from atlas.live.grid.heat_answer import HeatAnswer, Panel, Shown
    from atlas.query.answer import Answer

COLUMNS = 4
"""Panels in a row: so many take the width of two columns of a paper."""

MOST = 60
"""Panels that one figure can show."""

PER_INCH = 18
"""Characters of a title in an inch."""


def draw(answer: Answer, *, ax: Axes | None = None) -> Axes:
    """One panel a neuron, with the outline of the part above the percentile, and of the concept where that is known.

    Where several neurons were shown the same picture, the picture itself comes first and the mean over them last; where
    one neuron was shown several, each is named below its map. Colours are scaled panel by panel. `ax`: where to draw
    the one panel of an answer. Returns the first panel.

    Raises:
        UsageError: several panels, and one was given to draw on; or more than a figure can show.
    """
    heat = cast("HeatAnswer", answer)
    groups = _groups(heat)
    cells = [cell for group in groups for cell in group]
    if ax is not None and len(heat.panels) != 1:
        raise UsageError(f"the answer has {len(heat.panels)} panels; draw one row of it on one panel: answer[:1]")
    if len(cells) > MOST:
        raise UsageError(f"{len(cells)} panels are too many for a figure; show fewer neurons ([[top]]) or pictures")
    columns = -(-len(cells) // -(-len(cells) // COLUMNS))  # as many in every row, as far as possible
    width = WIDTH if columns == 1 else max(2 * WIDTH / COLUMNS, WIDTH / columns)
    axes = [ax] if ax is not None else panels(len(cells), columns=columns, width=width, height=_height(cells, width))
    length = round(PER_INCH * width)
    alone = len(cells) == len(groups) > 1
    for axis, cell in zip(axes, cells, strict=True):
        _cell(axis, cell, length, labelled=len(cells) <= COLUMNS)
        if alone and cast("Panel", cell).heat is not None:
            axis.set_xlabel(_name(_shown_in(cell), length), fontsize=5.5, labelpad=2)
    if ax is None:
        _explain(cast("Figure", axes[0].figure), heat, labelled=len(cells) <= COLUMNS)
    return axes[0]


def _groups(answer: HeatAnswer) -> list[list[Panel | Shown]]:
    """For each thing that was shown: itself and the mean, where it was shown to several neurons, around the panels."""
    means = {(m.shown.key, m.shown.number): m for m in answer.means()}
    groups: dict[tuple[object, ...], list[Panel | Shown]] = {}
    for panel in answer.panels:
        key = (panel.shown.key, panel.shown.number)
        first: list[Panel | Shown] = [panel.shown] if key in means and panel.shown.pixels is not None else []
        groups.setdefault(key, first).append(panel)
    for key, mean in means.items():
        groups[key].append(mean)
    return list(groups.values())


def _height(cells: Sequence[Panel | Shown], width: float) -> float:
    """Inches of a panel, by the tallest picture or the longest text."""
    shown = [_shown_in(cell) for cell in cells]
    tallest = [float(e.pixels.shape[0] / e.pixels.shape[1]) for e in shown if e.pixels is not None]
    if tallest:
        return 0.45 + min(max(*tallest, 0.5), 1.6) * width * 0.8
    words = max(sum(map(len, each.words)) for each in shown)
    return 0.9 + (min(0.15 * words / (12 * width), 3.0) if words else 0.6 * width)


def _shown_in(cell: Panel | Shown) -> Shown:
    """What was shown in a panel, or the thing itself."""
    return cast("Shown", getattr(cell, "shown", cell))


def _cell(axis: Axes, cell: Panel | Shown, length: int, *, labelled: bool) -> None:
    panel, shown = cast("Panel", cell), _shown_in(cell)
    if cell is shown:
        draw_picture(axis, shown)
        axis.set_title(_name(shown, length), fontsize=6, loc="left")
        return
    scale = scale_of([content(panel)])
    draw_panel(axis, panel, scale)
    axis.set_title(f"{title_of(panel, length)}\n{shortened(_numbers(panel), length + 6)}", fontsize=6, loc="left")
    if scale is not None:
        add_bar(axis, scale, unit="activation" if labelled else "", fraction=0.05, pad=0.02, shrink=0.85)


def _name(shown: Shown, length: int) -> str:
    """The end of a file's name tells more than its beginning."""
    name = drawable(shown.name)
    name = name if len(name) <= length else f"…{name[1 - length :]}"
    return f"{name}, step {shown.number + 1}" if shown.source == "video" else name


def _numbers(panel: Panel) -> str:
    """IoU beside random neurons', or the largest value."""
    values = panel.values
    if values.min() == values.max():
        return f"{values.max() + 0.0:.3g} at every token"  # not -0
    if panel.iou is not None:
        beside = "" if panel.random is None else f" (random {panel.random:.2f})"
        return f"IoU {panel.iou:.2f}{beside}"
    step = f", step {panel.shown.number + 1}" if panel.shown.source == "video" else ""
    return f"max {values.max():.3g}{step}"


def _explain(figure: Figure, answer: HeatAnswer, *, labelled: bool) -> None:
    """What the outlines are, and the colours where their bars do not say so."""
    from matplotlib.lines import Line2D

    maps = [panel for panel in answer.panels if panel.heat is not None]
    handles: list[Line2D] = []
    if any(panel.mask is not None and panel.mask.any() for panel in maps):
        share = 100 - maps[0].percentile
        handles.append(Line2D([], [], color=ABOVE, linewidth=1.1, label=f"largest {share:g} % of the map"))
    if concept := next((p.shown.concept for p in maps if p.shown.region is not None), None):
        handles.append(
            Line2D([], [], color="black", linewidth=1.2, linestyle="--", label=f"{drawable(concept)} in the picture")
        )
    if not labelled:
        handles.append(Line2D([], [], linewidth=0, label="colours: activation, scaled by panel"))
    if handles:
        figure.legend(handles=handles, loc="outside upper center", ncols=3, fontsize=6, labelcolor=GREY)
