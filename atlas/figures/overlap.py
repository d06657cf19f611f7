"""How many neurons are in exactly which of several sets, as an UpSet plot (Lex et al. 2014)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from atlas.figures._parts import Rows, drawable, legend, one_or_panels, shortened
from atlas.figures._style import COLOURS, WIDTH

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from atlas.query.answer import Answer

COLUMNS = 30
"""Combinations that are legible side by side."""

BARS, LINE = 1.25, 0.17
"""Inches of the bars, and of a line of the matrix of sets."""


def draw(answer: Answer, *, ax: Axes | None = None) -> Axes:
    """A bar for each combination of sets, the largest first, with what independent even draws would give; below it,
    which sets these are. At most the 30 largest combinations."""
    rows = answer.to_pylist()[:COLUMNS]
    sizes: dict[str, int] = answer.facts["sizes"]
    size = {"width": max(WIDTH, 1.2 + 0.2 * len(rows)), "height": BARS + LINE * len(sizes) + 0.7}
    [axis] = one_or_panels(ax, ["sets"], "one", **size)
    columns = range(len(rows))
    axis.bar(columns, [row["neurons"] for row in rows], width=0.6, color=COLOURS[0], label="neurons")
    highest = max(max(row["neurons"], row["expected"]) for row in rows)
    for column, row in zip(columns, rows, strict=True):
        close = 0 <= row["expected"] - row["neurons"] < 0.1 * highest  # the mark would strike the number out
        y = row["expected"] if close else row["neurons"]
        axis.text(column, y, str(row["neurons"]), ha="center", va="bottom", fontsize=6)
    look: dict[str, Any] = {"marker": "_", "markersize": 9, "markeredgewidth": 1.2, "color": "k", "linestyle": ""}
    axis.plot(columns, [row["expected"] for row in rows], label="expected of even, independent draws", **look)
    axis.set_xlim(-0.7, len(rows) - 0.3)
    axis.set_ylim(0, 1.12 * highest)
    axis.set_ylabel("neurons in exactly\nthese sets")
    axis.set_xticks([])
    left_out = len(answer) - len(rows)
    total = f"n = {answer.facts['total']:,} neurons" + (f"; {left_out} smaller combinations" if left_out else "")
    axis.set_title(total)
    _members(axis, rows, sizes)
    legend(ax, [axis])
    return axis


def _members(axis: Axes, rows: Rows, sizes: dict[str, int]) -> None:
    """The matrix below the bars: a line a set, dots for the sets of each combination, joined."""
    from matplotlib.transforms import ScaledTranslation, blended_transform_factory

    # As wide as the panel, and below it by inches: of a share of the panel the layout would leave too little room.
    transform: Any = axis.transAxes
    inches = axis.figure.dpi_scale_trans + ScaledTranslation(0, 0, transform)
    place, height = blended_transform_factory(axis.transAxes, inches), LINE * len(sizes)
    below: Any = axis.inset_axes((0, -height - 0.06, 1, height), transform=place, sharex=axis)
    names = list(sizes)
    for column, row in enumerate(rows):
        at = [names.index(name) for name in row["sets"]]
        absent = [place for place in range(len(names)) if place not in at]
        below.plot([column] * len(absent), absent, marker="o", color="#dddddd", markersize=4, linestyle="")
        below.plot([column] * len(at), at, marker="o", color="k", markersize=4)
    below.set_ylim(len(names) - 0.5, -0.5)
    below.set_yticks(range(len(names)), [f"{shortened(drawable(name), 40)} ({sizes[name]})" for name in names])
    below.tick_params(length=0, labelbottom=False)
    for spine in below.spines.values():
        spine.set_visible(False)
