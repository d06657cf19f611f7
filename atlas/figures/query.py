"""A concept's best neurons: their scores by rank, with the tokens that each decodes to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from atlas.figures._parts import entitle, legend
from atlas.figures._ranked import draw_ranked
from atlas.figures._style import GREY

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from atlas.query.answer import Answer


def draw(answer: Answer, *, ax: Axes | None = None) -> Axes:
    """A line a neuron, in the answer's order; of a vote of several maps, the mean percentile. Where the method stores
    what chance gives, that beside each score.

    Raises:
        UsageError: more neurons than a page has room for.
    """
    scored = "score" in answer.table.column_names
    axis = draw_ranked(answer, "score" if scored else "percentile", ax=ax)
    maps = answer.provenance.get("maps", [])
    methods = list(dict.fromkeys(str(origin["method"]) for origin in maps))
    axis.set_xlabel(f"score by {' or '.join(methods)}" if scored else f"mean percentile over {len(maps)} maps")
    if len(maps) == 1:
        [origin] = maps
        what = f"{origin['concept']}, {origin['source']} to {origin['target']}, {origin['reduce']}"
        number = f"{len(answer)} of {origin['neurons']:,} neurons, n = {origin['examples']:,} examples"
        entitle(axis, f"{what}\n{number}")
    else:
        concepts = list(dict.fromkeys(str(origin["concept"]) for origin in maps))
        named = ", ".join(concepts) if len(concepts) <= 3 else f"{len(concepts)} concepts"
        entitle(axis, f"{named}: {len(answer)} neurons from {len(maps)} maps")
    if "null_score" in answer.table.column_names:
        look: dict[str, Any] = {"color": GREY, "marker": "x", "linestyle": "", "label": "by chance (null_score)"}
        chance = [float("nan") if value is None else value for value in answer["null_score"].to_pylist()]
        axis.plot(chance, range(len(answer)), **look)
        legend(ax, [axis])
    return axis
