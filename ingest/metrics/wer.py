"""Word error rate by jiwer: substitutions, deletions and insertions a word of the reference; 0 is best, above 1 can be.

Lower case, without punctuation; the reference that it is nearest to counts.
"""

from __future__ import annotations

from ingest.metrics._common import Pairwise, words
from ingest.metrics._errors import error_rate

LOWER_IS_BETTER = True


def build() -> Pairwise:
    """No parameters."""
    rate = error_rate("wer")
    return Pairwise("wer", lambda answer, reference: rate(words(answer), words(reference)), min)
