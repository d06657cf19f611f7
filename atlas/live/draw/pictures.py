"""The states of an answer that make a picture, and the resulting pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from atlas.errors import Unsupported
from atlas.live.draw.drawer import DrawOptions
from atlas.live.encode import Prompt
from atlas.live.hooks import Capture, tracing

if TYPE_CHECKING:
    from PIL.Image import Image

    from atlas.live.model import LiveModel


def positions(live: LiveModel, prompts: Sequence[Prompt], starts: Sequence[int]) -> Tensor:
    """(B, J) positions of the states of the answers' pictures, in a batch whose answers begin at `starts`.

    Raises:
        Unsupported: the pictures have different numbers of tokens.
    """
    places = [live.drawer.places(prompt.answer) or [] for prompt in prompts]
    if len({len(p) for p in places}) != 1:
        raise Unsupported("the pictures of a batch have different numbers of tokens; use [[batch_size=1]]")
    first = torch.tensor(starts, device=live.device)[:, None]
    return first + torch.tensor(places, device=live.device) + live.drawer.offset


def states_of(live: LiveModel, prompts: Sequence[Prompt]) -> tuple[Capture, Tensor, Tensor]:
    """The traced pass of answered prompts; the positions of their pictures' states, (B, J), and the tokens, (B, J)."""
    batch = live.batch(prompts)
    with tracing(live.layout) as capture:
        live.forward(batch)
    at = positions(live, prompts, batch.starts)
    rows = torch.arange(len(prompts), device=at.device)[:, None]
    return capture, at, batch.inputs["input_ids"][rows, at - live.drawer.offset]


@torch.no_grad()
def pictures_of(live: LiveModel, prompts: Sequence[Prompt], seeds: Sequence[int], how: DrawOptions) -> list[Image]:
    """The pictures of answered prompts, every one with a picture's tokens in its answer."""
    capture, at, tokens = states_of(live, prompts)
    assert capture.norm_out is not None, "the traced pass did not reach the final norm"
    states = capture.norm_out[torch.arange(len(prompts), device=at.device)[:, None], at]
    return live.drawer.draw(states, tokens, seeds, how).pictures
