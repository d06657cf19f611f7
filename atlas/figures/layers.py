"""How many of a concept's best neurons each layer has, and how many of neurons drawn evenly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from atlas.figures._parts import LINES, Rows, count_by_layer, grouped, legend, one_or_panels, series
from atlas.figures._style import GREY

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from atlas.query.answer import Answer

HATCHES = ("", "///", "...", "xxx")
"""Of the bands, which overlap."""


def draw(answer: Answer, *, ax: Axes | None = None) -> Axes:
    """A line for each set of neurons, and the 95 % band of as many drawn evenly; a panel for each part of the model.

    Raises:
        UsageError: neurons of several parts of the model, and one panel was given.
    """
    parts = grouped(answer.to_pylist(), ["component"])
    axes = one_or_panels(ax, [component for (component,) in parts], "neurons of one part of the model")
    for axis, ((component,), rows) in zip(axes, parts.items(), strict=True):
        _panel(axis, rows)
        if len(parts) > 1:
            axis.set_title(component)
    legend(ax, axes)
    return axes[0]


def _panel(axis: Axes, rows: Rows) -> None:
    sets = grouped(rows, ["set"])
    for place, ((name,), of_set) in enumerate(sets.items()):
        counts = [row["count"] for row in of_set]
        label = f"{name} (n = {sum(counts)})"
        axis.plot(_layers(of_set), counts, label=label, linestyle=LINES[place % len(LINES)], **series(place))
    by_number = {sum(row["count"] for row in of_set): of_set for of_set in sets.values()}
    for place, (number, of_set) in enumerate(by_number.items()):
        if number and None not in (low := [row["null_low"] for row in of_set]):
            high = [row["null_high"] for row in of_set]
            # A band of one count would be invisible without its outline.
            look: dict[str, Any] = {"facecolor": GREY, "edgecolor": GREY, "alpha": 0.3, "linewidth": 0.8, "zorder": 0}
            label = f"{number} drawn evenly, 95 %"
            axis.fill_between(_layers(of_set), low, high, label=label, hatch=HATCHES[place % len(HATCHES)], **look)
    count_by_layer(axis)


def _layers(rows: Rows) -> list[int]:
    return [row["layer"] for row in rows]
