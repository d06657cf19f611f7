"""What a model that draws can tell: its pictures, and what of a picture each state of the answer decided."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from atlas.errors import UsageError
from atlas.live.encode import Prompt

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, slots=True)
class DrawOptions:
    """How a picture is drawn and looked back on.

    steps, guidance: of a diffusion model. looks: at how many of the steps it is asked what of the picture each state
    decided. side: of a picture made of tokens, in tokens; 0, the model's own.

    Raises:
        UsageError: a number that makes no picture.
    """

    steps: int = 20
    guidance: float = 2.5
    looks: int = 4
    side: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.side < 0 or not math.isfinite(self.guidance):
            raise UsageError("a picture takes at least 1 step, a guidance that is a number, and a side of 0 or more")
        if not 1 <= self.looks <= self.steps:
            raise UsageError(f"{self.looks} looks at {self.steps} steps: looks are from 1 to the steps; give both")


@dataclass(frozen=True, slots=True)
class Drawn:
    """Pictures of a batch of answers, and what it takes to look back on them (the drawer's own)."""

    pictures: list[Image]
    memory: Any


class Drawer(Protocol):
    """What a model that draws can tell.

    identity: 64 hex digits of what draws beside the model itself; "" where nothing does.
    offset: where the state of an answer's token is, counted from it: 0, at the token itself (GILL); -1, where it is
    predicted (pictures made of tokens).
    """

    offset: int

    @property
    def identity(self) -> str: ...

    def answers(self, prompts: Sequence[Prompt], how: DrawOptions, max_new_tokens: int) -> list[list[int]]:
        """The greedy answers to requests for pictures."""
        ...

    def places(self, answer: Sequence[int]) -> list[int] | None:
        """Which tokens of an answer are its picture's, every picture of a model having as many; None for no picture."""
        ...

    def draw(self, states: Tensor, tokens: Tensor, seeds: Sequence[int], how: DrawOptions) -> Drawn:
        """states: (B, J, d_model) outputs of the final norm; tokens: (B, J) int64; seeds: one a picture."""
        ...

    def importance(self, states: Tensor, drawn: Drawn, masks: Tensor, how: DrawOptions) -> Tensor:
        """(B, J, d_model): the derivative by the states of how much they decide of each picture inside its mask.

        masks: (B, height, width) from 0 to 1.
        """
        ...
