"""BLEU-1 to BLEU-4 of each sentence (Papineni et al. 2002) by sacrebleu, against all references at once; 0 to 1.

Lower case, 13a tokens, exponential smoothing; n-grams longer than the answer do not count against it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ingest.evaluate.metric import Judged
from ingest.metrics._common import need

ORDERS = (1, 2, 3, 4)


class Bleu:
    """See the module."""

    def __init__(self) -> None:
        bleu = need("bleu", "sacrebleu").BLEU
        self.scorers = {
            n: bleu(lowercase=True, smooth_method="exp", max_ngram_order=n, effective_order=True) for n in ORDERS
        }

    def score(self, judged: Sequence[Judged]) -> dict[str, np.ndarray]:
        by_order = {f"bleu{n}": np.zeros(len(judged)) for n in ORDERS}
        for i, judged_answer in enumerate(judged):
            for n, scorer in self.scorers.items():
                percent = scorer.sentence_score(judged_answer.answer, list(judged_answer.references)).score
                by_order[f"bleu{n}"][i] = min(percent / 100, 1.0)  # rounding can put a perfect answer just above 1
        return by_order


def build() -> Bleu:
    """No parameters."""
    return Bleu()
