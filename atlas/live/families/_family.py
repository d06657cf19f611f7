"""The needs that a model family may have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor


def _none(_: Any) -> Sequence[int]:
    return ()


@dataclass(frozen=True, slots=True)
class Family:
    """What a family needs beyond what its modules show.

    token_types: inputs that the model needs for every token, also where a prompt has no media; answer_type: their value
    for the tokens of an answer. picture_ids: config -> the ids that stand for parts of a picture and are not
    placeholders; masks_pictures: whether the model rules them out in its answers. picture_tokens: (model, a prompt's
    extras) -> the ids that its pictures become, where pictures in a batch would change each other. embed: (model, ids)
    -> their embeddings, where ids go beyond the words. drawer: live model -> its `atlas.live.draw.drawer.Drawer`.
    unquantised: modules that quantisation leaves alone, with the head, in place of HuggingFace's own choice.
    """

    token_types: tuple[str, ...] = ()
    answer_type: int = 0
    picture_ids: Callable[[Any], Sequence[int]] = _none
    masks_pictures: bool = False
    picture_tokens: Callable[[Any, dict[str, Tensor]], Tensor] | None = None
    embed: Callable[[Any, Tensor], Tensor] | None = None
    drawer: Callable[[Any], Any] | None = None
    unquantised: tuple[str, ...] = ()
