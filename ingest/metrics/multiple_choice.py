"""The answer's first character is the right letter, in any case (MMLU in Huang et al. 2024, MINER); 0 or 1.

The released code neither strips the answer nor forgives the case.
"""

from __future__ import annotations

from atlas.errors import UsageError
from ingest.metrics._common import Pairwise


def _same_letter(answer: str, reference: str) -> float:
    letter = reference.strip().upper()
    if len(letter) != 1:
        raise UsageError(f"multiple_choice needs references of one letter, not '{reference}'")
    return float(answer.strip()[:1].upper() == letter)


def build() -> Pairwise:
    """No parameters."""
    return Pairwise("multiple_choice", _same_letter)
