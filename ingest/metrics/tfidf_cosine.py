"""Cosine of tf-idf vectors fitted on the answer and its references alone; 0 to 1.

What the released code of Huang et al. 2024 (MINER) calls "cider" (scikit-learn's TfidfVectorizer as it is by default).
`tfidf_cosine` is that to the nearest reference; the code also prints the mean over references and the least.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from ingest.evaluate.metric import Judged

WORD = re.compile(r"\b\w\w+\b")
"""Two characters or more, as in scikit-learn: "a" is not a word."""


def cosines(answer: str, references: Sequence[str]) -> np.ndarray:
    """(references,): the similarity of the answer to each."""
    counts = [Counter(WORD.findall(text.lower())) for text in (*references, answer)]
    vocabulary = sorted(set().union(*counts))
    table = np.array([[count[word] for word in vocabulary] for count in counts], dtype=np.float64)
    table *= np.log((1 + len(counts)) / (1 + (table > 0).sum(0))) + 1
    norms = np.linalg.norm(table, axis=1, keepdims=True)
    table = np.divide(table, norms, out=np.zeros_like(table), where=norms > 0)
    similarities: np.ndarray = (table[:-1] @ table[-1]).clip(0, 1)
    return similarities


class TfidfCosine:
    """See the module."""

    def score(self, judged: Sequence[Judged]) -> dict[str, np.ndarray]:
        by_answer = [cosines(one.answer, one.references) for one in judged]
        return {
            "tfidf_cosine": np.array([values.max() for values in by_answer], dtype=np.float64),
            "tfidf_cosine_mean": np.array([values.mean() for values in by_answer], dtype=np.float64),
            "tfidf_cosine_min": np.array([values.min() for values in by_answer], dtype=np.float64),
        }


def build() -> TfidfCosine:
    """No parameters."""
    return TfidfCosine()
