"""Stage 2 of every recipe: what giving a frozen language model a sense has in common, whatever the sense."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ingest.datasets._world import BY_NAME
from ingest.zoo.train.corpus import Batch, Writer
from ingest.zoo.train.language import parameter_groups, rate_at, set_rate

ASKED = ("name", "does", "lives", "kind")
"""What is asked of what is shown: never what a thing *has*, so that this can only come through the language model."""


def descend(
    losses: Callable[[], Mapping[str, Tensor]],
    parts: Sequence[tuple[Iterable[nn.Parameter], float]],
    *,
    steps: int,
    decay: float,
    confine: Callable[[], None],
    log: Callable[[str], None],
    name: str,
) -> None:
    """AdamW on the sum of the losses of a new batch at every step.

    losses: each loss by the name that it is logged by. parts: parameters, and the peak of their learning rate.
    confine: run after every step, for weights that must stay 0.
    """
    listed = [([p for p in parameters if p.requires_grad], peak) for parameters, peak in parts]
    learned = [p for parameters, _ in listed for p in parameters]
    optimisers = [torch.optim.AdamW(parameter_groups(p, decay), betas=(0.9, 0.98)) for p, _ in listed]
    for step in range(steps):
        for optimiser, (_, peak) in zip(optimisers, listed, strict=True):
            set_rate(optimiser, peak * rate_at(step, steps))
        found = losses()
        torch.autograd.backward(torch.stack(list(found.values())).sum())
        nn.utils.clip_grad_norm_(learned, 1.0)
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        confine()
        if step % 100 == 0 or step == steps - 1:
            log(f"{name} step {step}: " + ", ".join(f"{one} {loss.item():.4f}" for one, loss in found.items()))


@dataclass(frozen=True, slots=True)
class Asking:
    """What may be asked of training pictures or recordings.

    captions: of each. single: the number of each that shows one thing, and the thing's name. prompts: by task.
    slots: the tokens that stand for what is shown. several: the part of the captions that are of several things.
    """

    writer: Writer
    captions: Sequence[str]
    single: Mapping[int, str]
    prompts: Mapping[str, Sequence[str]]
    slots: list[int]
    several: float

    def draw(self, rng: random.Random, captions: int, questions: int) -> tuple[list[int], Batch]:
        """Numbers of what is asked about, captions first, and the sequences that belong to them."""
        singles = list(self.single)
        several = [number for number in range(len(self.captions)) if number not in self.single]
        rows, chosen = [], []
        for number in range(captions + questions):
            task = "caption" if number < captions else rng.choice(ASKED)
            one = rng.choice(several if task == "caption" and rng.random() < self.several else singles)
            answer = self.captions[one] if task == "caption" else BY_NAME[self.single[one]].fact(task)
            rows.append((self.writer.prompt(rng.choice(self.prompts[task]), self.slots), self.writer.answer(answer)))
            chosen.append(one)
        return chosen, self.writer.batch(rows)


def answers(logits: Tensor, batch: Batch, captions: int) -> dict[str, Tensor]:
    """The losses of the first rows, which are captions, and of the others, which are questions."""
    parts = {"captions": slice(None, captions), "questions": slice(captions, None)}
    return {
        name: nn.functional.cross_entropy(logits[part, :-1].flatten(0, 1), batch.labels[part, 1:].flatten())
        for name, part in parts.items()
    }


def slotted(model: Any, batch: Batch, slot: int, tokens: Tensor) -> Tensor:
    """(batch, length, vocabulary) logits of sequences whose slots are filled by tokens, (batch, slots, d_model)."""
    vectors = model.get_input_embeddings()(batch.ids)
    filled = vectors.masked_scatter((batch.ids == slot)[..., None].expand_as(vectors), tokens)
    logits: Tensor = model.lm_head(model.model.language_model(inputs_embeds=filled).last_hidden_state)
    return logits


def choices(told: Tensor, sizes: Sequence[int], wanted: Tensor) -> list[Tensor]:
    """The loss of each of several choices. told: (rows, sum of sizes) logits. wanted: (rows, choices) numbers."""
    return [
        nn.functional.cross_entropy(part, wanted[:, i]) for i, part in enumerate(torch.split(told, list(sizes), dim=1))
    ]


def misplaced(placed: Tensor, goal: Tensor) -> Tensor:
    """How far vectors are from where they should be, as a part of their square."""
    return (placed - goal).pow(2).mean() / goal.pow(2).mean()
