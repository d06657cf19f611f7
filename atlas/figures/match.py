"""Neurons of one model, and those of another that respond most alike, beside what chance gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from atlas.figures._parts import entitle, legend, list_height, name_lines, one_or_panels, require_lines, shortened
from atlas.figures._ranked import TOKENS, spelled
from atlas.figures._style import COLOURS, GREY, WIDTH

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from atlas.query.answer import Answer

ALPHA = 0.05

SHIFT = 0.15
"""Lines by which a match stands above, and chance below, their line, as they may be equal."""


def draw(answer: Answer, *, ax: Axes | None = None) -> Axes:
    """A line a neuron, best rank first, with the neuron that it is matched with and that one's tokens: the cosine of
    their profiles, as a square where each is the other's best match and filled where p is at most 5 %; and the best
    cosine with the second model's concepts permuted.

    Raises:
        UsageError: more neurons than a page has room for.
    """
    rows = answer.to_pylist()
    require_lines(len(rows), "neurons", "a smaller [[top]]")
    [axis] = one_or_panels(ax, ["neurons"], "one", width=1.5 * WIDTH, height=list_height(len(rows)))
    places = range(len(rows))
    nulls = [row["null"] for row in rows]
    axis.plot(
        nulls,
        [place + SHIFT for place in places],
        color=GREY,
        marker="x",
        linestyle="",
        label="best by chance, mean of draws",
    )
    for mutual, marker, name in ((True, "s", "mutual"), (False, "o", "not mutual")):
        for below, fill, p in ((True, COLOURS[0], "p ≤ 0.05"), (False, "white", "p > 0.05")):
            at = [n for n in places if rows[n]["mutual"] is mutual and (rows[n]["p"] <= ALPHA) is below]
            look: dict[str, Any] = {"color": COLOURS[0], "marker": marker, "markerfacecolor": fill, "linestyle": ""}
            if at:
                axis.plot([rows[n]["similarity"] for n in at], [n - SHIFT for n in at], label=f"{name}, {p}", **look)
    name_lines(
        axis,
        [f"{row['layer']}/{row['neuron']} → {row['match_layer']}/{row['match_neuron']}" for row in rows],
        "neuron and its match",
    )
    axis.set_xlabel("cosine of their profiles over concepts")
    axis.margins(x=0.05)
    for line, row in enumerate(rows):
        text = shortened(spelled(row["match_tokens"] or []), TOKENS)
        axis.text(1.02, line, text, transform=axis.get_yaxis_transform(), va="center", fontsize=6)
    asked: Any = answer.question
    models = (
        ""
        if asked is None
        else f"{shortened(str(asked.concept), 20)}: {_model(asked.first)} and {_model(asked.second)}\n"
    )
    entitle(axis, f"{models}n = {len(answer.facts['concepts'])} concepts of both")
    legend(ax, [axis], columns=3)
    return axis


def _model(name: object) -> str:
    """The end of a model's name, which may be a folder."""
    return shortened(str(name).rstrip("/").rpartition("/")[2], 20)
