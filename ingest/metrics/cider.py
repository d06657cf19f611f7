"""CIDEr-D (Vedantam et al. 2015): tf-idf similarity of n-grams to the references, times 10; 0 to 10.

The values equal pycocoevalcap's for the same words; its tokeniser needs Java, so words here are lower-case ones without
punctuation. An n-gram's rarity is computed from the references of the answers judged together: values of different
calls are not comparable, and for a single answer it is 0.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from ingest.evaluate.metric import Judged
from ingest.metrics._common import words

Gram: TypeAlias = tuple[str, ...]
ORDERS = (1, 2, 3, 4)
SIGMA = 6.0


class Text(NamedTuple):
    """A text's n-grams and length."""

    counts: list[Counter[Gram]]
    """For each order, how often each n-gram occurs."""
    length: int
    """Number of bigrams, the length that the original compares."""


def _read(text: str) -> Text:
    tokens = words(text)
    counts = [Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)) for n in ORDERS]
    return Text(counts, max(len(tokens) - 1, 0))


def _document_frequency(references: Iterable[Sequence[Text]]) -> Counter[Gram]:
    """In how many answers' references an n-gram occurs."""
    frequency: Counter[Gram] = Counter()
    for texts in references:
        frequency.update({gram for text in texts for counts in text.counts for gram in counts})
    return frequency


class Cider:
    """See the module."""

    def score(self, judged: Sequence[Judged]) -> dict[str, np.ndarray]:
        references = [[_read(reference) for reference in judged_answer.references] for judged_answer in judged]
        frequency = _document_frequency(references)
        total = math.log(max(len(judged), 1))

        def weighted(counts: Counter[Gram]) -> dict[Gram, float]:
            return {gram: n * (total - math.log(max(frequency[gram], 1))) for gram, n in counts.items()}

        def vectors(text: Text) -> list[tuple[dict[Gram, float], float]]:
            weights = [weighted(counts) for counts in text.counts]
            return [(vector, math.sqrt(sum(x * x for x in vector.values()))) for vector in weights]

        values = np.zeros(len(judged))
        for i, (judged_answer, texts) in enumerate(zip(judged, references, strict=True)):
            answer = _read(judged_answer.answer)
            answer_vectors = vectors(answer)
            for text in texts:
                gap = math.exp(-((answer.length - text.length) ** 2) / (2 * SIGMA**2))
                similar = [_clipped(*a, *b) for a, b in zip(answer_vectors, vectors(text), strict=True)]
                values[i] += 10 * gap * sum(similar) / len(ORDERS) / len(texts)
        return {"cider": values}


def _clipped(answer: dict[Gram, float], norm: float, reference: dict[Gram, float], reference_norm: float) -> float:
    """Cosine in which an n-gram counts at most as often as in the reference."""
    if not norm or not reference_norm:
        return 0.0
    shared = sum(min(x, reference[gram]) * reference[gram] for gram, x in answer.items() if gram in reference)
    return shared / (norm * reference_norm)


def build() -> Cider:
    """No parameters."""
    return Cider()
