"""Norms between a neuron and a logit, as the linear maps that they were in one pass."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from atlas.live.layout import Layout


def norm_gain(norm: nn.Module, d_model: int) -> Tensor:
    """(d_model,) gain of a norm, whatever its parametrisation (w, or 1 + w as in Gemma)."""
    if isinstance(norm, nn.LayerNorm):
        return norm.weight.detach().float()
    weight = next(norm.parameters())
    with torch.no_grad():
        ones = torch.ones(1, d_model, dtype=torch.float32, device=weight.device).to(weight.dtype)
        # Not norm(ones): a hook on the norm must see the model's passes only.
        return norm.forward(ones)[0].float()  # type: ignore[no-any-return]


class FrozenNorm:
    """A norm as a linear map, with the scale that it had in the pass.

    before, after: its input and output, (K, d_model). scale: (K,). Exact for that input, and linear in its summands.
    """

    def __init__(self, norm: nn.Module, before: Tensor, after: Tensor):
        self.centred = isinstance(norm, nn.LayerNorm)
        self.gain = norm_gain(norm, before.shape[-1]).to(before.device)
        bias = norm.bias if isinstance(norm, nn.LayerNorm) else None
        self.bias = torch.zeros(1, device=before.device) if bias is None else bias.detach().float()
        x, y = self.unscaled(before.float()), after.float() - self.bias
        self.scale = (x * y).sum(-1) / (x * x).sum(-1)  # y = scale * x

    def unscaled(self, x: Tensor) -> Tensor:
        """(..., d_model) residual streams, centred where the norm does it, times its gain."""
        return self.gain * (x - x.mean(-1, keepdim=True) if self.centred else x)

    def __call__(self, x: Tensor) -> Tensor:
        """(K, d_model) residual streams as the norm would give them, each at its own scale."""
        return self.unscaled(x) * self.scale[:, None] + self.bias

    def pulled_back(self, rows: Tensor) -> Tensor:
        """(K, d_model): directions before the norm whose products equal those of `rows` after it."""
        rows = rows * self.gain
        return (rows - rows.mean(-1, keepdim=True) if self.centred else rows) * self.scale[:, None]


def direct_directions(
    layout: Layout, tokens: Tensor, before: Tensor | None = None, after: Tensor | None = None
) -> Tensor:
    """(tokens, d_model) directions g such that a neuron's direct effect on the token's logit is value * (g . write).

    Without `before`/`after` the direction is the plain unembedding row (Pan et al. 2023), in the model's dtype. With
    the final norm's input and output at the predicting positions, (tokens, d_model) each, the norm's scale is frozen
    at its real value and its gain and centring are folded into the direction, which makes the sum over all components
    equal the logit exactly (up to the norm's and the head's biases).
    """
    rows = layout.unembedding()[tokens]
    if before is None or after is None:
        return rows
    return FrozenNorm(layout.norm, before, after).pulled_back(rows.float())


def behind_ffn(layout: Layout, layer: int, directions: Tensor, wrote: Tensor) -> Tensor:
    """(K, d_model): directions in the residual stream, pulled back to write vectors, which in some families (Gemma 3)
    pass through a norm first.

    wrote: (K, d_model) what the layer's down projection gave, which decides that norm's scale.
    """
    norm = layout.after[layer]
    if norm is None:
        return directions
    with torch.no_grad():
        # Not norm(wrote): a hook on the norm must see the model's passes only.
        normed = norm.forward(wrote)
    return FrozenNorm(norm, wrote, normed).pulled_back(directions)


def write_gain(layout: Layout, layer: int) -> Tensor | None:
    """(d_model,) gain of the norm after a layer's FFN; None where there is no such norm."""
    norm = layout.after[layer]
    return None if norm is None else norm_gain(norm, layout.d_model)
