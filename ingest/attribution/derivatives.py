"""Derivatives of a pass's outputs by its neuron values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ingest.attribution.position_sums import sent

Gradients = list[tuple[Tensor, dict[int, Tensor]]]
"""[(pairs, layer -> (B, T, N))]: at most one pair a row in each entry."""


def differentiated(
    summed: Tensor,
    row_of: Sequence[int],
    values: Mapping[int, Tensor],
    check: Callable[[Mapping[int, Tensor]], None],
) -> Gradients:
    """The derivatives of each pair's output by the neuron values.

    One backward pass for the first pair of every row, one for the second, and so on.

    summed: (P,) outputs. row_of: the batch row of each pair. values: layer -> (B, T, N). check: called with the
    gradients of every backward pass.
    """
    row_counts: dict[int, int] = {}
    turn = [counted(row_counts, row) for row in row_of]
    entries = []
    for j in range(max(turn) + 1):
        pairs = sent([p for p, pair_turn in enumerate(turn) if pair_turn == j], summed.device)
        gradients = torch.autograd.grad(summed[pairs].sum(), list(values.values()), retain_graph=True)
        by_layer = dict(zip(values, gradients, strict=True))
        check(by_layer)
        entries.append((pairs, by_layer))
    return entries


def counted(counts: dict[int, int], key: int) -> int:
    """How often a key was counted before; counts it."""
    counts[key] = counts.get(key, -1) + 1
    return counts[key]
