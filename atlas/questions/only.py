"""Which neurons carry a concept in one modality only."""

from __future__ import annotations

from typing import ClassVar

from atlas.query.option import described
from atlas.questions._sides import Sides


@described
class Only(Sides):
    """Which neurons carry a concept in the first modality's top and not in the second's, and what chance would give.

    `sources=("text", "image")` gives the text's own neurons. Columns and facts are those of `shared`. Over several
    concepts: one row a concept.

    Raises:
        UsageError: not two modalities, or a map that the atlas does not have.
    """

    only: ClassVar[bool] = True

    examples = ("atlas only --concept dog --sources image,text --top 40",)
