"""Whether an answer's first word is a reference's first word; 0 or 1."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ingest.evaluate.metric import Judged


class FirstWord:
    def score(self, judged: Sequence[Judged]) -> dict[str, np.ndarray]:
        return {"first_word": np.array([self._same(one) for one in judged], np.float64)}

    def _same(self, one: Judged) -> bool:
        return one.answer.lower().split()[:1] in [text.lower().split()[:1] for text in one.references if text.split()]


def build() -> FirstWord:
    """No parameters."""
    return FirstWord()
