"""Knowledge neurons on GPT-2: integrated gradients of a word's probability, over the loop of the released code.

A random GPT-2 of 12 layers (d_model 256, 1,024 neurons a layer). The loop takes one prompt and one layer at a time:
a forward pass for the values, then the 20 steps of the path in batches of 10 whole passes. Outputs are compared first.
"""

from __future__ import annotations

import _published as published
import torch
from _timing import interleaved, report

from atlas.live.encode import Prompt
from atlas.live.model import LiveModel
from ingest.attribution.item import Item
from ingest.attribution.trace import traced
from ingest.data.targets import Target
from ingest.methods.knowledge_neurons import build

PROMPTS, LENGTH, STEPS = 16, 24, 20


class _Tokenizer:
    pad_token_id, eos_token_id, bos_token = 0, 2, None
    all_special_ids = (0, 1, 2)


def gpt2() -> LiveModel:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=2000, n_positions=64, n_embd=256, n_layer=12, n_head=4, bos_token_id=1, eos_token_id=2
    )
    return LiveModel(GPT2LMHeadModel(config).eval(), _Tokenizer(), name="middling-gpt2")


def main() -> None:
    live, generator = gpt2(), torch.Generator().manual_seed(1)
    ids = torch.randint(3, 2000, (PROMPTS, LENGTH + 1), generator=generator).tolist()
    items = [Item(n, Prompt(tuple(row[:-1]), (row[-1],)), (Target("word", 0, 1.0),)) for n, row in enumerate(ids)]
    with traced(live, items, "text", layers=None, tap="product", grad=False) as trace:
        ours = build(steps=STEPS)

        def mine() -> torch.Tensor:
            return torch.stack([ours.score(trace, layer) for layer in trace.layers])

        def loop() -> torch.Tensor:
            return published.knowledge_neurons(live, [item.prompt for item in items], STEPS)

        torch.testing.assert_close(mine(), loop(), atol=1e-7, rtol=1e-3)
        seconds = interleaved({"loop": loop, "ours": mine}, 3)
    detail = f"{PROMPTS} prompts of {LENGTH} tokens, 12 layers, {STEPS} steps"
    report("published knowledge neurons / ours, GPT-2", seconds["loop"] / seconds["ours"], ">= 10", detail)


if __name__ == "__main__":
    main()
