"""Decoding at the shape of SmolLM2-135M (d_model 576, a vocabulary of 49,152) over its bare product: the tokens of all
neurons by both projections, on both sides, against unembedding times write vectors alone, in blocks of the same size.

Weights are random, and 3 of the 30 layers are decoded; the seconds of all 46,080 neurons are these times ten."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from _timing import interleaved, report

from atlas.live.logit_lens import BLOCK, decode, predicted_seconds
from atlas.live.model import LiveModel

LAYERS, OF, WIDTH, D_MODEL, VOCABULARY = 3, 30, 1536, 576, 49_152


class _Tokenizer:
    pad_token_id, eos_token_id, bos_token = 0, 2, None
    all_special_ids = (0, 1, 2)

    def __len__(self) -> int:
        return VOCABULARY


def build() -> LiveModel:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": D_MODEL,
        "intermediate_size": WIDTH,
        "num_hidden_layers": LAYERS,
    }
    heads: dict[str, Any] = {"num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True}
    processor: Any = SimpleNamespace(tokenizer=_Tokenizer())
    return LiveModel(LlamaForCausalLM(LlamaConfig(**sizes, **heads)), processor, name="smollm2-shaped")


def main() -> None:
    live = build()
    head = live.layout.unembedding()
    columns = [live.layout.write_vectors(layer) for layer in range(LAYERS)]

    def bare() -> None:
        for write in columns:
            for first in range(0, WIDTH, BLOCK):
                write[:, first : first + BLOCK].T @ head.T

    def decoded() -> None:
        for _ in decode(live):
            pass

    sides = {"bare": bare, "decoded": decoded}
    seconds = interleaved(sides, 5)
    all_layers = (
        f"{OF / LAYERS * seconds['decoded']:.3g} s for {OF * WIDTH:,} neurons on {torch.get_num_threads()} threads"
    )
    report("decoding / bare product", seconds["decoded"] / seconds["bare"], "<= 2", all_layers)
    guess = predicted_seconds(LAYERS * WIDTH, D_MODEL, VOCABULARY, torch.device("cpu"), torch.float32)
    report(
        "predicted seconds / measured", guess / seconds["decoded"], "0.67 to 1.5", f"{guess:.3g} s for {LAYERS} layers"
    )


if __name__ == "__main__":
    main()
