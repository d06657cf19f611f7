"""Word recognition rate, 1 - WER, of LibriSpeech in Huang et al. 2024 (MINER); 1 where the answer has the reference.

As in the released code words are what spaces part, so punctuation counts (`wer` leaves it out). Not as there, the edits
are counted past 255. Insertions can bring it below 0.
"""

from __future__ import annotations

from ingest.metrics._common import Pairwise, contains
from ingest.metrics._errors import error_rate


def build() -> Pairwise:
    """No parameters."""
    rate = error_rate("wrr")

    def recognised(answer: str, reference: str) -> float:
        if contains(answer, reference):
            return 1.0
        return 1 - rate(answer.lower().split(), reference.lower().split())

    return Pairwise("wrr", recognised)
