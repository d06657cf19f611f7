"""The neurons most like one, with the tokens that each decodes to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atlas.figures._ranked import draw_ranked

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from atlas.query.answer import Answer


def draw(answer: Answer, *, ax: Axes | None = None) -> Axes:
    """A line a neuron, the most similar first.

    Raises:
        UsageError: more neurons than a page has room for.
    """
    axis = draw_ranked(answer, "similarity", ax=ax)
    axis.set_ylabel("neuron, its\nbest concept" if "concept" in answer.table.column_names else "neuron")
    question = answer.question
    axis.set_xlabel(f"cosine in the space '{getattr(question, 'space', '')}'" if question else "cosine")
    axis.set_title(f"most like {getattr(question, 'address', 'the neuron')}, n = {len(answer)}")
    return axis
