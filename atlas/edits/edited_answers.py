"""A model's answers to the same questions without and with an edit, and what a figure of them needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pyarrow as pa

from atlas.query.answer import Answer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BEFORE, EDITED, RANDOM = CONDITIONS = ("before", "edited", "random")
"""Columns of answers, in the order in which they are shown."""

ROWS = pa.schema(
    [(name, pa.string()) for name in ("example", "source", "task", "subset", "prompt")]
    + [("media", pa.list_(pa.string()))]
    + [(name, pa.string()) for name in (*CONDITIONS, "reference")]
)


class EditedAnswers(Answer):
    """One row a question: the answers before, edited, and with as many random neurons changed alike.

    seen: example -> the first picture or video frame that was shown with it. drawn: (example, condition) -> the picture
    in that answer, where it has one. Pictures are (height, width, 3).
    """

    seen: Mapping[str, NDArray[np.uint8]] = {}
    drawn: Mapping[tuple[str, str], NDArray[np.uint8]] = {}
