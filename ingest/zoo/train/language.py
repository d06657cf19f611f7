"""Stage 1: the language model alone, on text.

Three things make concepts live in single feed-forward neurons. Attention is narrow, and it writes a part of the
residual stream that the answer is not read from (`divide`): whatever the model says, feed-forward neurons have
written. What neurons write is penalised, so a token is served by few of them and each comes to stand for few things.
And every sequence loses some neurons at random, which keeps an answer from hanging on a single one.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from ingest.zoo.train.corpus import Batch, Corpus

HEARD = 80  # numbers of the residual stream, of 128, that words and attention write


@dataclass(frozen=True, slots=True)
class LanguageOptions:
    """sparsity: weight of a token's cost, the summed lengths of what its neurons write; it grows from 0 to its
    whole within the second third of training. lost: part of the neurons that each sequence does without. slot_noise:
    spread of the noise on a slot's embedding, against the embedding's own."""

    steps: int = 1400
    texts: int = 64
    contexts: int = 80
    peak_rate: float = 3e-3
    decay: float = 0.02
    sparsity: float = 3e-3
    lost: float = 0.02
    slot_noise: float = 0.2


class CostedLinear(nn.Linear):
    """A down projection that remembers what its neurons cost, and in training loses some of them.

    cost: (batch, length) lengths of what the neurons write, summed over neurons. lost: the part of the neurons
    that a sequence loses. sequences: how many there are in the batch; OPT gives their positions in one row.
    """

    cost: Tensor
    lost: float = 0.0
    sequences: int = 1

    def forward(self, values: Tensor) -> Tensor:
        rows = values.view(self.sequences, -1, self.in_features)
        self.cost = rows.abs() @ self.weight.norm(dim=0)
        if self.training and self.lost:
            rows = rows * (torch.rand(self.sequences, 1, self.in_features) >= self.lost)
        return super().forward(rows.view(values.shape))


@dataclass(frozen=True, slots=True)
class Family:
    """A kind of language model. build: an untrained one for a tokenizer. downs: for each layer the module that has its
    down projection, and the projection's name there. divide: keeps the parts of the residual stream apart. places:
    what else a training batch of this shape, (batch, length), is run with."""

    build: Callable[[PreTrainedTokenizerFast], Any]
    downs: Callable[[Any], list[tuple[nn.Module, str]]]
    divide: Callable[[Any], None]
    places: Callable[[torch.Size], dict[str, Tensor]] = lambda shape: {}


def _sizes(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 16,
        "hidden_act": "relu",
        "max_position_embeddings": 512,
        "tie_word_embeddings": False,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }


def rate_at(step: int, steps: int, warmup: int = 100) -> float:
    """Part of the peak learning rate: a short rise, then half a cosine down to a fiftieth."""
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done))


def train_language(
    tokenizer: PreTrainedTokenizerFast,
    corpus: Corpus,
    options: LanguageOptions,
    seed: int,
    log: Callable[[str], None],
    family: Family | None = None,
) -> Any:
    """A language model of that family, by default Llama."""
    family = family or LLAMA
    torch.manual_seed(seed)
    rng = random.Random(f"language {seed}")
    model = family.build(tokenizer)
    down_projections = _count(family.downs(model), options.lost)
    family.divide(model)
    groups = parameter_groups(model.parameters(), options.decay)
    optimiser = torch.optim.AdamW(groups, lr=options.peak_rate, betas=(0.9, 0.98))
    model.train()
    for step in range(options.steps):
        set_rate(optimiser, options.peak_rate * rate_at(step, options.steps))
        weight = options.sparsity * min(1.0, max(0.0, step / options.steps - 1 / 3) * 6)
        figures = []
        for batch in (corpus.texts(rng, options.texts), corpus.contexts(rng, options.contexts)):
            for layer in down_projections:
                layer.sequences = len(batch.ids)
            vectors = embed(model, batch, options.slot_noise)
            logits = model(inputs_embeds=vectors, **family.places(batch.ids.shape)).logits
            loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch.labels[:, 1:].flatten())
            written = batch.ids != model.config.pad_token_id
            cost = sum((layer.cost for layer in down_projections), torch.zeros(()))[written].mean()
            torch.autograd.backward(loss + weight * cost)
            figures += [loss.item(), cost.item()]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        family.divide(model)
        optimiser.zero_grad(set_to_none=True)
        if step % 100 == 0 or step == options.steps - 1:
            log("language step {}: text {:.4f} (neurons {:.1f}), contexts {:.4f} ({:.1f})".format(step, *figures))
    for layer in down_projections:
        layer.sequences = 1
    model.eval()
    return model


def embed(model: Any, batch: Batch, slot_noise: float) -> Tensor:
    """(batch, length, width) embeddings: a slot's words summed, and blurred as a picture's tokens will be."""
    words = model.get_input_embeddings()
    has_extra = (batch.extra != 0)[..., None]
    vectors: Tensor = words(batch.ids) + (words(batch.extra) * has_extra).sum(-2)
    if slot_noise:
        tinted = has_extra.any(-2)
        size = vectors.detach().pow(2).mean(-1, keepdim=True).sqrt()
        vectors = vectors + tinted * slot_noise * size * torch.randn_like(vectors)
    return vectors


def _count(downs: Iterable[tuple[nn.Module, str]], lost: float) -> list[CostedLinear]:
    """Swap in down projections that count; names and weights stay, so saving is not affected."""
    replaced = []
    for holder, name in downs:
        down: Any = getattr(holder, name)
        replacement = CostedLinear(down.in_features, down.out_features, bias=down.bias is not None)
        replacement.load_state_dict(down.state_dict())
        replacement.lost = lost
        setattr(holder, name, replacement)
        replaced.append(replacement)
    return replaced


@torch.no_grad()
def divide(model: LlamaForCausalLM) -> None:
    """Keep two parts of the residual stream apart: words and attention write the first, the answer is read from
    the second, and only feed-forward neurons, which read both, write the second."""
    model.model.embed_tokens.weight[:, HEARD:] = 0
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight[HEARD:] = 0
    model.lm_head.weight[:, :HEARD] = 0


def _gated(model: Any) -> list[tuple[nn.Module, str]]:
    return [(layer.mlp, "down_proj") for layer in model.model.layers]


LLAMA = Family(lambda tokenizer: LlamaForCausalLM(LlamaConfig(**_sizes(tokenizer))), _gated, divide)
QWEN2 = Family(lambda tokenizer: Qwen2ForCausalLM(Qwen2Config(**_sizes(tokenizer))), _gated, divide)


def parameter_groups(parameters: Iterable[nn.Parameter], decay: float) -> list[dict[str, object]]:
    """Weights decay; norms and biases do not."""
    listed = list(parameters)
    return [
        {"params": [p for p in listed if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in listed if p.ndim <= 1], "weight_decay": 0.0},
    ]


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all parameter groups."""
    for group in optimiser.param_groups:
        group["lr"] = rate
