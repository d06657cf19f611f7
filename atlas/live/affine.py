"""How an edit changes neuron values."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Rule = Callable[[Tensor], Tensor]
"""A change of one module's neuron values: (..., neuron) -> the same shape."""


def affine(index: Tensor, gain: Tensor, bias: Tensor) -> Rule:
    """x[..., index] <- gain * x[..., index] + bias, for (neurons,) tensors; the other neurons are untouched."""

    def rule(values: Tensor) -> Tensor:
        at = index.to(values.device)
        changed = affinely(values.index_select(-1, at), gain, bias)
        return values.index_copy(-1, at, changed)

    return rule


def affinely(chosen: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    """gain * chosen + bias, for (..., neurons) and (neurons,) tensors."""
    changed = chosen * gain.to(chosen) + bias.to(chosen)
    # A gain of 0 ablates even an infinity, which 0 * x would turn into NaN.
    return torch.where(gain.to(chosen) == 0, bias.to(chosen), changed)
