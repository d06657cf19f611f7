"""What neurons do at each kind of token, beside all neurons of the same layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from atlas.figures._parts import (
    Rows,
    entitle,
    grouped,
    legend,
    list_height,
    name_lines,
    name_values,
    one_or_panels,
    points,
    shortened,
    span,
    zero_line,
)
from atlas.figures._style import COLOURS, GREY
from atlas.stats.role_values import STATISTICS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from atlas.query.answer import Answer


def draw(answer: Answer, *, ax: Axes | None = None) -> Axes:
    """A panel for each statistic, in it a line for each role: the mean over the neurons with its 95 % interval, and the
    mean over all neurons of the same layers; returns the first panel.

    Raises:
        UsageError: several statistics, and one panel was given.
    """
    kinds = grouped(answer.to_pylist(), ["statistic"])
    lines = max(len(rows) for rows in kinds.values())
    names = [name for (name,) in kinds]
    axes = one_or_panels(ax, names, "[[statistics]]", columns=1, height=list_height(lines) - 0.15)
    for axis, ((name,), rows) in zip(axes, kinds.items(), strict=True):
        _panel(axis, rows, len({row["neurons"] for row in rows}) > 1)
        name_values(axis, STATISTICS.get(name, name))
    number = span(row["neurons"] for rows in kinds.values() for row in rows)
    entitle(axes[0], f"{shortened(str(answer.facts['of']), 30)} (n = {number} neuron{'' if number == '1' else 's'})")
    legend(ax, axes)
    return axes[0]


def _panel(axis: Axes, rows: Rows, differing: bool) -> None:
    """differing: whether the roles' values are of different numbers of neurons."""
    looks: dict[str, dict[str, Any]] = {
        "value": {"color": COLOURS[0], "marker": "o", "label": "these neurons"},
        "expected": {"color": GREY, "marker": "x", "label": "all of the same layers"},
    }
    for place, (name, look) in enumerate(looks.items()):
        low, high = ([row[end] if name == "value" else None for row in rows] for end in ("low", "high"))
        at = [line + 0.2 * (place - 0.5) for line in range(len(rows))]
        points(axis, [row[name] for row in rows], low, high, at, **look)
    zero_line(axis)
    name_lines(axis, [f"{row['role']} (n = {row['neurons']})" if differing else row["role"] for row in rows], "token")
    axis.margins(x=0.08)
