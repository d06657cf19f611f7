"""CIDEr-D (Vedantam et al. 2015): tf-idf similarity of n-grams to the references, times 10; 0 to 10.

The values are pycocoevalcap's for the same words; its tokeniser needs Java, so the words here are lower-case ones
without punctuation. How rare an n-gram is comes from the references of the answers judged together: values of different
calls are not comparable, and of one answer alone it is 0.
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
    counts: list[Counter[Gram]]
    """For each order, how often each n-gram occurs."""
    length: int
    """Bigrams, which is what the original compares."""


def _read(text: str) -> Text:
    said = words(text)
    counts = [Counter(tuple(said[i : i + n]) for i in range(len(said) - n + 1)) for n in ORDERS]
    return Text(counts, max(len(said) - 1, 0))


def _document_frequency(references: Iterable[Sequence[Text]]) -> Counter[Gram]:
    """In how many answers' references an n-gram occurs."""
    found: Counter[Gram] = Counter()
    for texts in references:
        found.update({gram for text in texts for counts in text.counts for gram in counts})
    return found


class Cider:
    def score(self, judged: Sequence[Judged]) -> dict[str, np.ndarray]:
        references = [[_read(reference) for reference in one.references] for one in judged]
        frequency = _document_frequency(references)
        total = math.log(max(len(judged), 1))

        def weighted(counts: Counter[Gram]) -> dict[Gram, float]:
            return {gram: n * (total - math.log(max(frequency[gram], 1))) for gram, n in counts.items()}

        def vectors(text: Text) -> list[tuple[dict[Gram, float], float]]:
            found = [weighted(counts) for counts in text.counts]
            return [(vector, math.sqrt(sum(x * x for x in vector.values()))) for vector in found]

        values = np.zeros(len(judged))
        for i, (one, texts) in enumerate(zip(judged, references, strict=True)):
            answer = _read(one.answer)
            mine = vectors(answer)
            for text in texts:
                gap = math.exp(-((answer.length - text.length) ** 2) / (2 * SIGMA**2))
                similar = [_clipped(*a, *b) for a, b in zip(mine, vectors(text), strict=True)]
                values[i] += 10 * gap * sum(similar) / len(ORDERS) / len(texts)
        return {"cider": values}


def _clipped(answer: dict[Gram, float], norm: float, reference: dict[Gram, float], reference_norm: float) -> float:
    """Cosine in which an n-gram counts no more often than the reference has it."""
    if not norm or not reference_norm:
        return 0.0
    shared = sum(min(x, reference[gram]) * reference[gram] for gram, x in answer.items() if gram in reference)
    return shared / (norm * reference_norm)


def build() -> Cider:
    """No parameters."""
    return Cider()
