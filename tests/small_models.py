"""Random models of further architectures, a quantised projection, and what a model must be again after an edit."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def small(name: str, **more: Any) -> Any:
    """A random causal model of an architecture: two layers of 64 neurons, and biases that are not zero."""
    import transformers

    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.2}
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = getattr(transformers, f"{name}Config")(**sizes | heads | ids | more)
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval().requires_grad_(False)
    for key, parameter in model.named_parameters():
        if key.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    return model


class Int8(torch.nn.Linear):
    """A quantised projection as several libraries have it: an nn.Linear whose weight is int8, and a scale."""

    def __init__(self, of: torch.nn.Linear):
        super().__init__(of.in_features, of.out_features, bias=of.bias is not None)
        weight = of.weight.detach()
        self.register_buffer("scale", weight.abs().amax(1, keepdim=True) / 127)
        self.weight = torch.nn.Parameter((weight / self.scale).round().to(torch.int8), requires_grad=False)
        self.bias = of.bias

    def full(self) -> Tensor:
        """The weights that it multiplies with."""
        return self.weight.float() * self.scale

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.linear(x, self.full(), self.bias)


def state(model: Any) -> dict[str, Tensor]:
    """A copy of all weights and buffers."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    """Bit for bit."""
    assert first.keys() == second.keys()
    for name in first:
        assert first[name].dtype == second[name].dtype and torch.equal(first[name], second[name]), name


KINDS = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_always_called", "_forward_hooks_with_kwargs")
KINDS += ("_forward_pre_hooks_with_kwargs", "_backward_hooks", "_backward_pre_hooks")


def hooks(model: Any) -> int:
    """All hooks of all modules; transformers keeps a few of its own after the first pass."""
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in KINDS)


def gap(first: Tensor, second: Tensor) -> float:
    """The largest difference, as a part of the largest number."""
    return float((first - second).abs().max() / first.abs().max())


class Packed(torch.nn.Module):
    """A quantised projection that is not an nn.Linear and has no parameters: its weights are where nobody looks."""

    def __init__(self, of: torch.nn.Linear):
        super().__init__()
        self.in_features, self.out_features = of.in_features, of.out_features
        self._packed = (Int8(of),)  # in a tuple, so that it is not registered

    def weight(self) -> Tensor:
        return self._packed[0].full()

    def forward(self, x: Tensor) -> Tensor:
        return self._packed[0](x)


def build_blip2() -> Any:
    """A random BLIP-2 over OPT: it generates with its language model alone, from embeddings."""
    import transformers

    torch.manual_seed(0)
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"model_type": "opt", "vocab_size": 300, "hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 2, "max_position_embeddings": 128, "word_embed_proj_dim": 32, "init_std": 0.2}
    text |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = transformers.Blip2Config(
        vision_config={**tower, "image_size": 8, "patch_size": 4},
        qformer_config={**tower, "encoder_hidden_size": 16, "vocab_size": 30},
        text_config=text,
        num_query_tokens=4,
        image_token_index=3,
    )
    model = transformers.Blip2ForConditionalGeneration(config).eval().requires_grad_(False)
    torch.nn.init.normal_(model.query_tokens)  # zeros before a layer norm else
    return model
