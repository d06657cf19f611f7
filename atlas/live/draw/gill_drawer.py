"""GILL (Koh et al. 2023) as a model that draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from atlas.live.draw.diffusion import Painter
from atlas.live.draw.drawer import Drawn, DrawOptions
from atlas.live.encode import Prompt

if TYPE_CHECKING:
    from atlas.live.model import LiveModel


class GillDrawer:
    """Pictures by a diffusion model that is prompted by eight tokens (GILL, Koh et al. 2023).

    The influence of the states inside a mask is the energy of the guidance that they exert there: with u(x_t, c) the
    noise that the diffusion model predicts in the noisy picture x_t at step t under the prompt c,

        y = mean over the looks t of  sum over the mask of |u(x_t, c) - u(x_t, empty)|^2 / sum of the mask

    for x_t as they were when the picture was drawn. It is 0 for a prompt that changes nothing. R of NAM (Fang et al.
    2024), whose own interpreter of the diffusion model is not published, is here dy/dh.
    """

    offset = 0

    def __init__(self, live: LiveModel, painter: Painter):
        self.live, self.model, self.painter = live, live.model, painter
        self.ids = list(live.model.config.img_token_ids)

    @property
    def identity(self) -> str:
        return self.painter.identity

    def answers(self, prompts: Sequence[Prompt], how: DrawOptions, max_new_tokens: int) -> list[list[int]]:
        return self.live.generate(prompts, max_new_tokens=max_new_tokens)

    def places(self, answer: Sequence[int]) -> list[int] | None:
        count = len(self.ids)
        starts = [i for i in range(len(answer) - count + 1) if list(answer[i : i + count]) == self.ids]
        return list(range(starts[0], starts[0] + count)) if starts else None

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the mapper."""
        precision: torch.dtype = next(self.model.mapper.parameters()).dtype
        return precision

    @torch.no_grad()
    def draw(self, states: Tensor, tokens: Tensor, seeds: Sequence[int], how: DrawOptions) -> Drawn:
        prompt = self.model.prompt_embeds(states.to(self.dtype)).float()
        pictures, path = self.painter.paint_watched(prompt, seeds=seeds, steps=how.steps, guidance=how.guidance)
        # The middle steps of `looks` equal stretches: neither the pure noise nor the finished picture only.
        chosen = [path[(2 * i + 1) * len(path) // (2 * how.looks)] for i in range(how.looks)]
        return Drawn(pictures, chosen)

    def importance(self, states: Tensor, drawn: Drawn, masks: Tensor, how: DrawOptions) -> Tensor:
        with torch.enable_grad():
            leaf = states.detach().float().requires_grad_(True)
            energy = self.energy(leaf, drawn, masks)
            [gradient] = torch.autograd.grad(energy.sum(), leaf)
        return gradient

    def energy(self, states: Tensor, drawn: Drawn, masks: Tensor) -> Tensor:
        """(B,): y of each picture, differentiable by the states."""
        # The mapper is in the model's precision, the diffusion model in its own.
        prompt = self.model.prompt_embeds(states.to(self.dtype)).to(self.painter.device, torch.float32)
        empty = self.painter.encode([""]).expand(len(prompt), -1, -1)
        total = torch.zeros(len(prompt), device=prompt.device)
        for step, latents in drawn.memory:
            weight = torch.nn.functional.adaptive_avg_pool2d(masks[:, None].to(latents), latents.shape[-2:])
            pull = self.painter.predict_noise(latents, step, prompt) - self.painter.predict_noise(latents, step, empty)
            total = total + (pull**2 * weight).sum((1, 2, 3)) / weight.sum((1, 2, 3)).clamp(min=1e-6)
        return total / len(drawn.memory)


def gill(live: LiveModel) -> GillDrawer:
    """The drawer of a GILL model, with the diffusion pipeline in its folder."""
    return GillDrawer(live, Painter.load(live.folder, device=live.device))
