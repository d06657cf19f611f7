"""What tests of word swaps share beside `atlas.testing.swaps`: a model that says some words."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

from atlas.live.model import LiveModel
from atlas.testing import contract
from atlas.testing.swaps import World, cases_of, example, feed_of, items_of, one_pass, problem_of, target_probabilities

__all__ = ["World", "cases_of", "example", "feed_of", "items_of", "one_pass", "problem_of", "target_probabilities"]

SPOKEN = [
    *[example("a dog", media=str(i), task="caption", split="find" if i < 2 else "held_out") for i in range(4)],
    *[example("a cat", media=str(i), task="caption", split="find" if i < 6 else "held_out") for i in range(4, 8)],
    example("a red dog barks", prompt="what barks ?"),
    example("dog", prompt="one word :"),
    example("a red cat meows", prompt="what meows ?"),
    example("a dog and a cat", prompt="what is hot ?", split="held_out"),
    example("two dogs", prompt="two what ?", split="held_out"),
    example("the red picture", prompt="what is red ?", split="held_out", mentions=()),
]
"""What `speaker` was taught to say, word by word."""


def speaker(live: LiveModel) -> LiveModel:
    """Teach a random model the answers of SPOKEN by heart, so that there are words which it says."""
    prompts = [p for e in SPOKEN if (p := feed_of(live, SPOKEN).prompt(e)) is not None]
    end = live.model.generation_config.eos_token_id
    batch = live.batch([p.answered((*p.answer, end)) for p in prompts])
    ids, length = batch.inputs["input_ids"], batch.roles.shape[1]
    wanted = torch.arange(length) >= torch.tensor(batch.starts)[:, None]
    wanted &= batch.inputs["attention_mask"].bool()
    parameters = list(live.model.requires_grad_(True).parameters())
    optimiser = torch.optim.Adam(parameters, lr=3e-3)
    for _ in range(300):
        logits = live.model(**batch.inputs).logits[:, :-1][wanted[:, 1:]]
        loss = torch.nn.functional.cross_entropy(logits, ids[:, 1:][wanted[:, 1:]])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if loss < 0.01:
            break
    for parameter in parameters:
        parameter.grad = None
    live.model.requires_grad_(False)
    return live


def untouched(live: LiveModel) -> AbstractContextManager[None]:
    """No hook is left, no weight is another, and none has a gradient."""
    return contract.untouched(contract.Entry("the solver", object, None), live)
