"""Which positions a method may read."""

from __future__ import annotations

from atlas.live.media import KINDS

INPUT = "input"
POSITIONS = ("predicting", "all", *KINDS, INPUT)
"""The positions that a method may read: where the words are predicted, all except padding, a medium's, or where the
concept comes in: the medium's, and in text the tokens of the prompt that name it."""


def sources_with(positions: str) -> frozenset[str] | None:
    """The only sources whose examples have these positions; None: all have."""
    return frozenset({positions}) if positions in KINDS else None


def need_of(positions: str) -> frozenset[str]:
    """What a method that reads these positions needs of an item: where the prompt names the concept, or nothing."""
    return frozenset({INPUT}) if positions == INPUT else frozenset()
