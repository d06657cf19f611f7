"""Models that draw: where a picture's states are in an answer, the picture, and what of it each state decided."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from atlas.errors import Unsupported, UsageError
from atlas.live.encode import Prompt
from atlas.live.hooks import Capture, tracing
from atlas.live.painter import Painter

if TYPE_CHECKING:
    from PIL.Image import Image

    from atlas.live.model import LiveModel


@dataclass(frozen=True, slots=True)
class How:
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

    def answers(self, live: LiveModel, prompts: Sequence[Prompt], how: How, max_new_tokens: int) -> list[list[int]]:
        """The greedy answers to requests for pictures."""
        ...

    def places(self, answer: Sequence[int]) -> list[int] | None:
        """Which tokens of an answer are its picture's, every picture of a model having as many; None for no picture."""
        ...

    def draw(self, states: Tensor, tokens: Tensor, seeds: Sequence[int], how: How) -> Drawn:
        """states: (B, J, d_model) outputs of the final norm; tokens: (B, J) int64; seeds: one a picture."""
        ...

    def importance(self, states: Tensor, drawn: Drawn, masks: Tensor, how: How) -> Tensor:
        """(B, J, d_model): the derivative by the states of how much they decide of each picture inside its mask.

        masks: (B, height, width) from 0 to 1.
        """
        ...


def positions(live: LiveModel, prompts: Sequence[Prompt], starts: Sequence[int]) -> Tensor:
    """(B, J) where the states of the answers' pictures are, in a batch whose answers begin at `starts`.

    Raises:
        Unsupported: the pictures have different numbers of tokens.
    """
    places = [live.drawer.places(prompt.answer) or [] for prompt in prompts]
    if len({len(p) for p in places}) != 1:
        raise Unsupported("the pictures of a batch have different numbers of tokens; use --batch-size 1")
    first = torch.tensor(starts, device=live.device)[:, None]
    return first + torch.tensor(places, device=live.device) + live.drawer.offset


def states_of(live: LiveModel, prompts: Sequence[Prompt]) -> tuple[Capture, Tensor, Tensor]:
    """The traced pass of answered prompts; (B, J) where their pictures' states are, and (B, J) the tokens there."""
    batch = live.batch(prompts)
    with tracing(live.layout) as capture:
        live.forward(batch)
    at = positions(live, prompts, batch.starts)
    rows = torch.arange(len(prompts), device=at.device)[:, None]
    return capture, at, batch.inputs["input_ids"][rows, at - live.drawer.offset]


@torch.no_grad()
def pictures_of(live: LiveModel, prompts: Sequence[Prompt], seeds: Sequence[int], how: How) -> list[Image]:
    """The pictures of answered prompts, every one with a picture's tokens in its answer."""
    capture, at, tokens = states_of(live, prompts)
    assert capture.norm_out is not None, "the traced pass did not reach the final norm"
    states = capture.norm_out[torch.arange(len(prompts), device=at.device)[:, None], at]
    return live.drawer.draw(states, tokens, seeds, how).pictures


class GillDrawer:
    """Pictures by a diffusion model that eight tokens ask (GILL, Koh et al. 2023).

    How much the states decide inside a mask is the energy of the guidance that they exert there: with u(x_t, c) what
    the diffusion model says of the noisy picture x_t at step t under the prompt c,

        y = mean over the looks t of  sum over the mask of |u(x_t, c) - u(x_t, empty)|^2 / sum of the mask

    for x_t as they were when the picture was drawn. It is 0 for a prompt that changes nothing. R of NAM (Fang et al.
    2024), whose own interpreter of the diffusion model is not published, is here dy/dh.
    """

    offset = 0

    def __init__(self, model: Any, painter: Painter):
        self.model, self.painter = model, painter
        self.ids = list(model.config.img_token_ids)

    @property
    def identity(self) -> str:
        return self.painter.identity

    def answers(self, live: LiveModel, prompts: Sequence[Prompt], how: How, max_new_tokens: int) -> list[list[int]]:
        return live.generate(prompts, max_new_tokens=max_new_tokens)

    def places(self, answer: Sequence[int]) -> list[int] | None:
        count = len(self.ids)
        starts = [i for i in range(len(answer) - count + 1) if list(answer[i : i + count]) == self.ids]
        return list(range(starts[0], starts[0] + count)) if starts else None

    @property
    def dtype(self) -> torch.dtype:
        found: torch.dtype = next(self.model.mapper.parameters()).dtype
        return found

    @torch.no_grad()
    def draw(self, states: Tensor, tokens: Tensor, seeds: Sequence[int], how: How) -> Drawn:
        prompt = self.model.prompt_embeds(states.to(self.dtype)).float()
        pictures, path = self.painter.paint_watched(prompt, seeds=seeds, steps=how.steps, guidance=how.guidance)
        # The middles of as many equal stretches of the way: neither the bare noise nor the finished picture alone.
        chosen = [path[(2 * i + 1) * len(path) // (2 * how.looks)] for i in range(how.looks)]
        return Drawn(pictures, chosen)

    def importance(self, states: Tensor, drawn: Drawn, masks: Tensor, how: How) -> Tensor:
        with torch.enable_grad():
            leaf = states.detach().float().requires_grad_(True)
            energy = self.energy(leaf, drawn, masks)
            [found] = torch.autograd.grad(energy.sum(), leaf)
        return found

    def energy(self, states: Tensor, drawn: Drawn, masks: Tensor) -> Tensor:
        """(B,): y of each picture, differentiable by the states."""
        # The mapper is in the model's precision, the diffusion model in its own.
        prompt = self.model.prompt_embeds(states.to(self.dtype)).to(self.painter.device, torch.float32)
        empty = self.painter.encode([""]).expand(len(prompt), -1, -1)
        total = torch.zeros(len(prompt), device=prompt.device)
        for step, latents in drawn.memory:
            weight = torch.nn.functional.adaptive_avg_pool2d(masks[:, None].to(latents), latents.shape[-2:])
            pull = self.painter.says(latents, step, prompt) - self.painter.says(latents, step, empty)
            total = total + (pull**2 * weight).sum((1, 2, 3)) / weight.sum((1, 2, 3)).clamp(min=1e-6)
        return total / len(drawn.memory)


def gill(live: LiveModel) -> GillDrawer:
    """The drawer of a GILL model, with the diffusion pipeline in its folder."""
    return GillDrawer(live.model, Painter.load(live.folder, device=live.device))
