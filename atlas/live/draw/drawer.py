"""The interface of a model that draws: its pictures, and how each state of the answer shaped them."""

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
    """How a picture is drawn and analysed.

    steps, guidance: of a diffusion model. looks: at how many of the steps the influence of each state is measured.
    side: of a picture made of tokens, in tokens; 0 for the model's own size.

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
            raise UsageError(f"[[looks]] must be from 1 to the number of [[steps]], {self.steps}, not {self.looks}")


@dataclass(frozen=True, slots=True)
class Drawn:
    """Pictures of a batch of answers, and the data that the drawer needs to analyse them later."""

    pictures: list[Image]
    memory: Any


class Drawer(Protocol):
    """The interface of a model that draws.

    identity: 64 hex digits of the parts that draw besides the model itself; "" where there are none.
    offset: where the state of an answer's token is, relative to it: 0 at the token itself (GILL); -1 where it is
    predicted (pictures made of tokens).
    """

    offset: int

    @property
    def identity(self) -> str:
        """64 hex digits of the parts that draw besides the model; "" where there are none."""
        ...

    def answers(self, prompts: Sequence[Prompt], how: DrawOptions, max_new_tokens: int) -> list[list[int]]:
        """The greedy answers to requests for pictures."""
        ...

    def places(self, answer: Sequence[int]) -> list[int] | None:
        """Indices of the answer's tokens that make its picture, equally many for every picture; None for no picture."""
        ...

    def draw(self, states: Tensor, tokens: Tensor, seeds: Sequence[int], how: DrawOptions) -> Drawn:
        """Draw one picture a row.

        states: (B, J, d_model) outputs of the final norm. tokens: (B, J) int64. seeds: one for each picture.
        """
        ...

    def importance(self, states: Tensor, drawn: Drawn, masks: Tensor, how: DrawOptions) -> Tensor:
        """(B, J, d_model): the derivative, by the states, of their influence on each picture inside its mask.

        masks: (B, height, width) from 0 to 1.
        """
        ...
