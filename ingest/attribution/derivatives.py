"""Derivatives of what a pass explains by its neuron values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ingest.attribution.position_sums import sent

if TYPE_CHECKING:
    from ingest.attribution.trace import Trace

Gradients = list[tuple[Tensor, dict[int, Tensor]]]
"""[(pairs, layer -> (B, T, N))]: at most one pair a row in each entry."""


def differentiated(trace: Trace, summed: Tensor) -> Gradients:
    """The derivatives of each pair's output, (P,): one backward pass for the first pair of every row, and so on."""
    seen: dict[int, int] = {}
    turn = [counted(seen, row) for row in trace.row_of]
    values = [trace.capture.values[layer] for layer in trace.layers]
    out = []
    for j in range(max(turn) + 1):
        pairs = sent([p for p, its in enumerate(turn) if its == j], summed.device)
        gradients = torch.autograd.grad(summed[pairs].sum(), values, retain_graph=True)
        found = dict(zip(trace.layers, gradients, strict=True))
        numbers = [item.number for item in trace.items]
        trace.finite.of_values(found, trace.real, numbers, "the gradients in layer {}")
        out.append((pairs, found))
    return out


def counted(seen: dict[int, int], key: int) -> int:
    """How often a key came before."""
    seen[key] = seen.get(key, -1) + 1
    return seen[key]
