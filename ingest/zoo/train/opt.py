"""OPT as the language model of stage 1, its residual stream divided as that of `language.divide`.

OPT has biases and position embeddings, and its norms take the mean away. So what words, positions and attention write
has a mean of zero: then the final norm leaves of it, in the part that is read, nothing but its share of the scale.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import OPTConfig, OPTForCausalLM, PreTrainedTokenizerFast

from ingest.zoo.train.language import HEARD, Family

SHIFT = 32


def opt_config(tokenizer: PreTrainedTokenizerFast) -> OPTConfig:
    """The small OPT's configuration."""
    return OPTConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        ffn_dim=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=128,
        dropout=0.0,
        tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )


def unheard(written: Tensor) -> None:
    """Keep vectors along the last dimension out of the part that is read, and their mean at zero; in place."""
    written[..., HEARD:] = 0
    written[..., :HEARD] -= written[..., :HEARD].mean(-1, keepdim=True)


@torch.no_grad()
def divide(model: Any) -> None:
    """Only feed-forward neurons write what the answer is read from; without them every logit is 0."""
    decoder = model.model.decoder
    unheard(decoder.embed_tokens.weight)
    unheard(decoder.embed_positions.weight)
    for layer in decoder.layers:
        unheard(layer.self_attn.out_proj.weight.T)
        unheard(layer.self_attn.out_proj.bias)
        unheard(layer.fc2.bias)
    decoder.final_layer_norm.bias[HEARD:] = 0
    model.lm_head.weight[:, :HEARD] = 0


def shifted(shape: torch.Size) -> dict[str, Tensor]:
    """Positions that begin anywhere, so that no question is known by where its words stand: OPT learns each position
    by itself, and held-out wordings have known words at other ones."""
    begin = torch.randint(0, SHIFT, (shape[0], 1))
    return {"position_ids": begin + torch.arange(shape[1])}


OPT = Family(
    build=lambda tokenizer: OPTForCausalLM(opt_config(tokenizer)),
    downs=lambda model: [(layer, "fc2") for layer in model.model.decoder.layers],
    divide=divide,
    places=shifted,
)
