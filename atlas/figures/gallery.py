"""A neuron's strongest examples: pictures with its activation laid on them, texts with their words shaded by it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from atlas.errors import UsageError
from atlas.figures._heat import add_bar, content, draw_panel, drawable, scale_of, title_of
from atlas.figures._parts import shortened
from atlas.figures._style import WIDTH, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from atlas.live.grid.heat_answer import HeatAnswer, Panel
    from atlas.query.answer import Answer

COLUMNS = 5
"""Panels in a row: so many take the width of two columns of a paper."""

SIDE = 2 * WIDTH / COLUMNS
"""Inches of a panel's width."""


def draw(answer: Answer, *, ax: Axes | None = None) -> Axes:
    """One panel an example, strongest first, rows of five for each source, each source with one scale of colours.

    A title has the largest value at any token of the example, and that token; before it, the value of all that is
    shown, where it is one. `ax`: where to draw the one panel of an answer. Returns the first panel.

    Raises:
        UsageError: several panels, and one was given to draw on.
    """
    shown = cast("HeatAnswer", answer).panels
    if ax is not None and len(shown) != 1:
        raise UsageError(f"the answer has {len(shown)} panels; draw one row of it on one panel: answer[:1]")
    by_source: dict[str, list[Panel]] = {}
    for panel in shown:
        by_source.setdefault(panel.shown.source, []).append(panel)
    axes = [ax] if ax is not None else _places(list(by_source.values()))
    first = 0
    for group in by_source.values():
        places = axes[first : first + len(group)]
        _group(places, group)
        first += len(group)
    if ax is None:
        axes[0].figure.suptitle(title_of(shown[0], 100), fontsize=7)
    return axes[0]


def _places(groups: Sequence[Sequence[Panel]]) -> list[Axes]:
    """The panels; every source begins a row, as high as its content needs."""
    columns = min(COLUMNS, max(map(len, groups)))
    rows = [-(-len(group) // columns) for group in groups]
    heights = [height for group, count in zip(groups, rows, strict=True) for height in [_height(group)] * count]
    axes = panels(
        sum(rows) * columns,
        columns=columns,
        width=SIDE,
        height=sum(heights) / len(heights),
        gridspec_kw={"height_ratios": heights},
    )
    used: list[Axes] = []
    row = 0
    for group, of_source in zip(groups, rows, strict=True):
        places = axes[row * columns : (row + of_source) * columns]
        used += places[: len(group)]
        for left_over in places[len(group) :]:
            left_over.set_axis_off()
        row += of_source
    return used


def _height(group: Sequence[Panel]) -> float:
    """Inches of a row: for pictures by the tallest, up to a square; for words by the longest text."""
    shapes = [panel.shown.pixels.shape for panel in group if panel.shown.pixels is not None]
    if shapes:
        return 0.2 + SIDE * min(max(0.3, *(float(height / width) for height, width, _ in shapes)), 1.0)
    signs = max(sum(map(len, panel.shown.words)) for panel in group)
    return 0.3 + 0.115 * min(max(signs / 17, 3), 9)


def _group(axes: Sequence[Axes], group: Sequence[Panel]) -> None:
    """The examples of one source, with one colour bar."""
    scale = scale_of([content(panel) for panel in group])
    for axis, panel in zip(axes, group, strict=True):
        draw_panel(axis, panel, scale)
        axis.set_title(_title(panel), fontsize=5.5, pad=2)
    if scale is not None:
        add_bar(axes, scale, fraction=0.04, pad=0.01, aspect=15)
        for axis in axes:
            axis.set_anchor("N")  # a colour bar centres what it stands beside


def _title(panel: Panel) -> str:
    value, token = panel.shown.stored or (float(panel.values.max()), "")
    at = f" at {drawable(token).strip() or repr(token)}" if token else ""
    constant = panel.values.min() == panel.values.max()
    here = f"{panel.values.max() + 0.0:.3g} here, " if constant and token else ""  # not -0
    return shortened(f"{here}{value:.3g}{at}", 26)
