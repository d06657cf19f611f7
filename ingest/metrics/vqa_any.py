"""Any reference answer is a part of the lower-cased answer (TextVQA and MSVD-QA in Huang et al. 2024, MINER); 0 or 1.

An empty reference is in nothing; in the released code it is in everything.
"""

from __future__ import annotations

from ingest.metrics._common import Pairwise, contains


def build() -> Pairwise:
    """No parameters."""
    return Pairwise("vqa_any", contains)
