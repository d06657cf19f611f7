"""Which neurons carry a concept in both modalities."""

from __future__ import annotations

from typing import ClassVar

from atlas.query.option import described
from atlas.questions._sides import Sides


@described
class Shared(Sides):
    """Which neurons carry a concept in both modalities, and how many each null would give.

    Rows come best first by the sum of their ranks: `rank_image`, `rank_text`, `score_image`, `score_text` and tokens.
    Facts: how many are `shared` of `top`, and of each null the number `expected`, the `lift` and `p`. Chance draws from
    the neurons that both maps score (`expected`, `lift`, `p`); matched neurons are of the same layers, and of about the
    same mean |activation| where the atlas has that (`p_matched`); other concepts' neurons tell what two sources share
    whatever the concept (`p_mismatched`); the same answers after other prompts, where a run has them, what their words
    alone give (`p_answer`). "Shared" is claimed where all are rejected. Over several concepts: one row a concept.

    Two targets alone compare targets, whatever the side.

    Raises:
        UsageError: not two modalities, or a map that the atlas does not have.
    """

    only: ClassVar[bool] = False

    examples = (
        "atlas shared --concept dog --sources image,text --top 40",
        "atlas shared --concepts all --method contribution",
    )
