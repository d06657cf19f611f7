"""Neurons in the order of an answer, with a value each and the tokens that they decode to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from atlas.figures._parts import list_height, name_lines, one_or_panels, require_lines, shortened, token
from atlas.figures._style import COLOURS, WIDTH
from atlas.query.map_spec import COORDINATES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from atlas.query.answer import Answer

TOKENS = 48
"""Characters of decoded tokens on a line."""


def draw_ranked(
    answer: Answer, column: str, *, ax: Axes | None, narrower: str = "a smaller [[top]]", also: Sequence[str] = ()
) -> Axes:
    """A line a neuron: its address, and what its maps differ in; a point at `column`; its tokens on the right.

    also: further columns to name a neuron by.
    """
    rows = answer.to_pylist()
    require_lines(len(rows), "neurons", narrower)
    [axis] = one_or_panels(ax, ["neurons"], "one", width=1.5 * WIDTH, height=list_height(len(rows)))
    values = [row[column] for row in rows]
    lines = range(len(rows))
    axis.hlines(lines, [min(0.0, *values)] * len(rows), values, color=COLOURS[0], linewidth=0.8)
    axis.plot(values, lines, color=COLOURS[0], marker="o", linestyle="")
    differing = [name for name, about in COORDINATES.items() if about.shown and name in answer.table.column_names]
    # A rank is told where the lines are not simply the first, the second, and so on.
    ranks = [row.get("rank") for row in rows]
    ordered = ranks in ([None] * len(rows), list(range(1, len(rows) + 1)))
    names = [
        [str(neuron), *(str(row[name]) for name in (*differing, *also))]
        for neuron, row in zip(answer.neurons, rows, strict=True)
    ]
    names = [[*name, f"({rank}.)"] if not ordered else name for name, rank in zip(names, ranks, strict=True)]
    name_lines(axis, [" ".join(name) for name in names], "neuron: layer/index")
    if "tokens" in answer.table.column_names:
        for line, row in enumerate(rows):
            text = shortened(spelled(row["tokens"] or []), TOKENS)
            axis.text(1.02, line, text, transform=axis.get_yaxis_transform(), va="center", fontsize=6)
    return axis


def spelled(tokens: Sequence[str]) -> str:
    """Tokens on one line."""
    return " · ".join(token(text) for text in tokens)
