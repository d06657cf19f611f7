"""A reference label is a part of the answer, in any case (VocalSound in Huang et al. 2024, MINER); 0 or 1.

The released code minds the case.
"""

from __future__ import annotations

from ingest.metrics._common import Pairwise, contains


def build() -> Pairwise:
    """No parameters."""
    return Pairwise("label", contains)
