"""Two maps side by side: the scores of the best neurons of either."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atlas.figures._parts import drawable, legend, series, shortened, zero_line
from atlas.figures._style import panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from atlas.query.answer import Answer

NAMED = 3
"""Neurons that are named: the best of all that both have."""


def draw(answer: Answer, *, ax: Axes | None = None) -> Axes:
    """One point a neuron: its score in the first map across, in the second upward, marked by whose top has it.

    The legend counts each kind, beside how many would be in both by chance, and of neurons of the same layers and
    loudness (matched). A neuron that a map does not score is left out and counted.
    """
    facts, rows = answer.facts, answer.to_pylist()
    axis = ax if ax is not None else panels(1, height=3.0)[0]
    scored = [row for row in rows if row["score_first"] is not None and row["score_second"] is not None]
    expected = f"; {facts['expected']:.3g} by chance"
    if facts.get("expected_matched") is not None:
        expected += f", {facts['expected_matched']:.3g} matched"
    for place, (where, words) in enumerate((("both", expected), ("first", ""), ("second", ""))):
        of_kind = [row for row in scored if row["in"] == where]
        name = "in both tops" if where == "both" else f"in the top of the {where} alone"
        axis.plot(
            [row["score_first"] for row in of_kind],
            [row["score_second"] for row in of_kind],
            linestyle="",
            label=f"{name}: {len(of_kind)}{words}",
            alpha=0.8,
            **series(place),
        )
    for row in [row for row in scored if row["in"] == "both"][:NAMED]:
        at = (row["score_first"], row["score_second"])
        axis.annotate(f"{row['layer']}/{row['neuron']}", at, (2, 2), textcoords="offset points", fontsize=5.5)
    zero_line(axis)
    axis.axhline(0, color="0.8", linewidth=0.6, zorder=0)
    left_out = len(rows) - len(scored)
    axis.set_xlabel(f"first: {shortened(drawable(facts['first']), 50)}")
    axis.set_ylabel(f"second: {shortened(drawable(facts['second']), 44)}")
    correlation = "" if facts["correlation"] is None else f", rank correlation {facts['correlation']:.2f}"
    note = f"; {left_out} not scored by one" if left_out else ""
    axis.set_title(f"best {facts['top']} of each of {facts['neurons']:,} neurons{correlation}{note}", fontsize=6.5)
    legend(ax, [axis], columns=1)
    return axis
