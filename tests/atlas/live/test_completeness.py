"""The exactness that attribution by contributions rests on: the parts of the residual stream sum to the logit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from atlas.live.hooks import tracing
from atlas.live.layout import locate
from atlas.live.norms import direct_directions

SIZES = {
    "vocab_size": 90,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": 0,
}
FAMILIES = {
    "llama": transformers.LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True),
    "mistral": transformers.MistralConfig(**SIZES),
    "qwen2": transformers.Qwen2Config(**SIZES),
    "qwen3": transformers.Qwen3Config(**SIZES),
    "gemma": transformers.GemmaConfig(**SIZES),
    "opt": transformers.OPTConfig(
        vocab_size=90,
        hidden_size=32,
        word_embed_proj_dim=32,
        ffn_dim=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=64,
        init_std=0.3,
        pad_token_id=0,
    ),
}


@pytest.fixture(params=["tiny-llava", "llava", *FAMILIES])
def model(request: pytest.FixtureRequest, random_llava: Any) -> Any:
    if request.param == "tiny-llava":
        from ingest import zoo

        return transformers.LlavaForConditionalGeneration.from_pretrained(zoo.resolve("tiny-llava")).eval()
    if request.param == "llava":
        return random_llava(seed=2)[0]
    torch.manual_seed(0)
    made = transformers.AutoModelForCausalLM.from_config(FAMILIES[request.param]).eval()
    for name, parameter in made.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.2)
        elif "norm" in name:
            torch.nn.init.normal_(parameter, mean=0.0 if request.param == "gemma" else 1.0, std=0.2)
    return made


@torch.no_grad()
def test_embedding_attention_neurons_and_biases_sum_to_the_logit(model: Any) -> None:
    layout = locate(model)
    attended: list[Any] = []
    handles = [
        layer.self_attn.register_forward_hook(lambda _m, _i, out: attended.append(out[0])) for layer in layout.layers
    ]
    ids = torch.randint(5, 60, (2, 9), generator=torch.Generator().manual_seed(0))
    with tracing(layout) as capture:
        logits = model(input_ids=ids).logits
    for handle in handles:
        handle.remove()
    row, position = 1, 8
    token = logits[row, position].argmax()[None]
    assert capture.norm_in is not None and capture.norm_out is not None
    before, after = capture.norm_in[row, position][None], capture.norm_out[row, position][None]
    (direction,) = direct_directions(layout, token, before, after)
    parts = [capture.calls[0][0][0][row, position] @ direction]
    for layer in range(len(layout.layers)):
        parts.append(attended[layer][row, position] @ direction)
        neurons = capture.values[layer][row, position] * (direction @ layout.write_vectors(layer))
        parts.append(neurons.sum())
        if layout.down[layer].bias is not None:
            parts.append(layout.down[layer].bias @ direction)
    if getattr(layout.norm, "bias", None) is not None:
        parts.append(layout.norm.bias @ layout.unembedding()[token[0]])
    if getattr(layout.head, "bias", None) is not None:
        parts.append(layout.head.bias[token[0]])
    expected = float(logits[row, position, token[0]])
    size = sum(abs(float(part)) for part in parts)
    assert abs(sum(map(float, parts)) - expected) < 1e-4 * size
    assert float(parts[2].abs()) > 1e-3 * size  # the first layer's neurons have a part in it
