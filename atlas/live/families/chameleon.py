"""Chameleon: pictures are tokens of the vocabulary, named IMGIMG..., and never part of an answer in text."""

from __future__ import annotations

from typing import Any

from atlas.live.families._family import Family


def picture_ids(config: Any) -> list[int]:
    """The ids of picture tokens, sorted."""
    return sorted(token for name, token in config.vocabulary_map.items() if name.startswith("IMGIMG"))


FAMILY = Family(picture_ids=picture_ids, masks_pictures=True)
