"""The neurons whose decoded tokens and best concepts have the words of a text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atlas.figures._parts import entitle, shortened
from atlas.figures._ranked import draw_ranked

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from atlas.query.answer import Answer


def draw(answer: Answer, *, ax: Axes | None = None) -> Axes:
    """A line a neuron, the best match first.

    Raises:
        UsageError: more neurons than a page has room for.
    """
    axis = draw_ranked(answer, "match", ax=ax)
    axis.set_ylabel("neuron, its\nbest concept" if "concept" in answer.table.column_names else "neuron")
    axis.set_xlabel("match of words")
    text = shortened(str(getattr(answer.question, "text", "")), 40)
    entitle(axis, f"'{text}', n = {len(answer)} neurons" if text else f"n = {len(answer)} neurons")
    return axis
