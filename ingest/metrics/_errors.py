"""Word error rate of two lists of words."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ingest.metrics._common import need


def error_rate(metric: str) -> Callable[[Sequence[str], Sequence[str]], float]:
    """(answer, reference) -> edits a word of the reference; 0 for two empty ones, 1 where only the reference is empty.

    Raises:
        Unsupported: jiwer is not installed.
    """
    jiwer = need(metric, "jiwer")

    def rate(answer: Sequence[str], reference: Sequence[str]) -> float:
        if not reference:
            return float(bool(answer))
        return float(jiwer.wer(" ".join(reference), " ".join(answer)))

    return rate
