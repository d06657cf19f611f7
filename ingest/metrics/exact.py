"""The whole answer equals a reference, case and outer spaces aside; 0 or 1."""

from __future__ import annotations

from ingest.metrics._common import Pairwise


def _same(answer: str, reference: str) -> float:
    return float(answer.strip().lower() == reference.strip().lower())


def build() -> Pairwise:
    """No parameters."""
    return Pairwise("exact", _same)
