"""Attention weights of one layer at a time, from the arguments that its self-attention module received.

The main pass keeps whatever attention implementation the model has, and no weights. A layer's module is called again
with the arguments recorded in the traced pass and HuggingFace's eager implementation, which returns its weights; the
weights of other layers are never held at the same time.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from atlas.errors import Unsupported
from atlas.live.hooks import Capture
from atlas.live.layer_call import CACHES, split_hidden
from atlas.live.layout import Layout


def weights(layout: Layout, capture: Capture, layer: int, keys: Tensor, *, causal: bool = True) -> Tensor:
    """(B, H, T, T): how much each position (row) of each head attends to each other (column).

    keys: (B, T) bool, the positions that can be attended to. causal: True as the model computed it, where `keys` must
    be all positions that are not padding; False without a causal mask, softmax(QK^T / sqrt(d_head)) over all of `keys`,
    as in MINER (Huang et al. 2024). Rows of positions outside `keys` are 0.

    Raises:
        Unsupported: the module does not give its weights.
    """
    return _call_eagerly(layout, capture, layer, keys, causal)[1].detach()


def last_saliency(
    layout: Layout, capture: Capture, layer: int, keys: Tensor, last: Tensor, by_output: Tensor
) -> Tensor:
    """(B, T) |sum over heads of A * dy/dA| for the attention that the position `last` pays to every other.

    A * dy/dA is the saliency of Wang et al. 2023, "Label Words are Anchors". keys: as in `weights`. last: (B,) int64.
    by_output: (B, T, d_model), the derivative of y by the output of the layer's attention module in the traced pass;
    the chain rule through the module alone gives dy/dA.
    """
    with torch.enable_grad():
        output, attended = _call_eagerly(layout, capture, layer, keys, True, grad=True)
        [by_weights] = torch.autograd.grad(output, attended, by_output.to(output.dtype))
    rows = torch.arange(len(last), device=last.device)
    return (attended.detach() * by_weights)[rows, :, last].float().sum(1).abs()


def value_norms(layout: Layout, capture: Capture, layer: int) -> Tensor:
    """(B, H, T) float32: the Euclidean norm of every head's value vector; heads that share a vector have the same.

    Raises:
        Unsupported: the attention has no value projection of its own (`v_proj`).
    """
    module, arguments = _call(layout, capture, layer)
    projection, width = getattr(module, "v_proj", None), getattr(module, "head_dim", None)
    if not isinstance(projection, nn.Module) or not isinstance(width, int):
        raise Unsupported(f"{type(module).__name__} has no value projection of its own; attention norms need one")
    with torch.no_grad():
        values = projection.forward(arguments["hidden_states"].detach())
    norms: Tensor = values.float().unflatten(-1, (-1, width)).norm(dim=-1).transpose(1, 2)
    return norms.repeat_interleave(_heads(module, norms.shape[1]), dim=1)


def _heads(module: nn.Module, values: int) -> int:
    """How many query heads share a value head."""
    groups = getattr(module, "num_key_value_groups", None)
    return groups if isinstance(groups, int) else int(getattr(module, "num_heads", values)) // values


def _call(layout: Layout, capture: Capture, layer: int) -> tuple[nn.Module, dict[str, Any]]:
    """A layer's attention module and the arguments it was called with, by name."""
    module = layout.attentions[layer]
    if module is None or layer not in capture.attention_calls:
        raise Unsupported("no attention was recorded; trace with attention=True")
    hidden, args, kwargs = split_hidden(*capture.attention_calls[layer])
    signature = inspect.signature(module.forward)
    if "attention_mask" not in signature.parameters:
        raise Unsupported(f"{type(module).__name__} takes no attention mask; its attention weights cannot be read")
    bound = signature.bind(hidden, *args, **kwargs).arguments
    named = {name: value for name, value in bound.items() if name not in ("args", "kwargs")}
    return module, named | bound.get("kwargs", {})


def _call_eagerly(
    layout: Layout, capture: Capture, layer: int, keys: Tensor, causal: bool, *, grad: bool = False
) -> tuple[Tensor, Tensor]:
    """The module's output and its weights, (B, H, T, T), from one more call."""
    module, arguments = _call(layout, capture, layer)
    hidden: Tensor = arguments["hidden_states"].detach()
    keys = keys.to(hidden.device)
    recorded = arguments.get("attention_mask")
    allowed = _causal(module, recorded, keys) if causal else keys[:, None, None, :]
    low = torch.finfo(hidden.dtype).min
    mask = torch.zeros(allowed.shape, dtype=hidden.dtype, device=hidden.device).masked_fill(~allowed, low)
    changed: dict[str, Any] = {
        "hidden_states": hidden.requires_grad_(grad),
        "attention_mask": mask.expand(*_square(hidden)),
    }
    if "output_attentions" in inspect.signature(module.forward).parameters:
        changed["output_attentions"] = True
    with _eager(module), torch.set_grad_enabled(grad):
        # Not module(...): a hook on the module must see the model's passes only.
        result = module.forward(**_without_cache(arguments) | changed)
    batch, _, length, _ = _square(hidden)
    attended = result[1] if isinstance(result, tuple) and len(result) > 1 else None
    if not isinstance(attended, Tensor) or (attended.shape[0], *attended.shape[2:]) != (batch, length, length):
        raise Unsupported(f"{type(module).__name__} does not return its attention weights")
    return result[0], attended if grad else attended * keys.to(attended.device)[:, None, :, None]


def _square(hidden: Tensor) -> tuple[int, int, int, int]:
    return hidden.shape[0], 1, hidden.shape[1], hidden.shape[1]


def _without_cache(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {name: None if name in CACHES else v for name, v in arguments.items()}


def _causal(module: nn.Module, recorded: Tensor | None, keys: Tensor) -> Tensor:
    """(B or 1, 1, T, T) bool: what the traced pass let each position attend to."""
    if isinstance(recorded, Tensor) and recorded.dim() == 4:
        return recorded if recorded.dtype == torch.bool else recorded > torch.finfo(recorded.dtype).min / 2
    length = keys.shape[1]
    window = getattr(module, "sliding_window", None)
    if isinstance(window, int) and window < length:
        raise Unsupported(
            f"{type(module).__name__} attends to a window that is not known; load the model with [[attention=sdpa]]"
        )
    below = torch.ones(length, length, dtype=torch.bool, device=keys.device).tril()
    return below & keys[:, None, None, :]


@contextmanager
def _eager(module: nn.Module) -> Iterator[None]:
    """Let the module compute its attention with the implementation that returns weights."""
    config: Any = getattr(module, "config", None)
    if config is None or not hasattr(config, "_attn_implementation"):
        raise Unsupported(f"{type(module).__name__} has no config that says how attention is computed")
    usual = config._attn_implementation
    config._attn_implementation = "eager"
    try:
        yield
    finally:
        config._attn_implementation = usual
