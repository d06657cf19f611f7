"""Derivatives of what a pass explains by its neuron values."""

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
    """The derivatives of each pair's output by the neuron values: a backward pass for the first pair of every row, ...

    summed: (P,) outputs. row_of: the batch row of each pair. values: layer -> (B, T, N). check: sees every pass's.
    """
    seen: dict[int, int] = {}
    turn = [counted(seen, row) for row in row_of]
    out = []
    for j in range(max(turn) + 1):
        pairs = sent([p for p, its in enumerate(turn) if its == j], summed.device)
        gradients = torch.autograd.grad(summed[pairs].sum(), list(values.values()), retain_graph=True)
        by_layer = dict(zip(values, gradients, strict=True))
        check(by_layer)
        out.append((pairs, by_layer))
    return out


def counted(seen: dict[int, int], key: int) -> int:
    """How often a key came before."""
    seen[key] = seen.get(key, -1) + 1
    return seen[key]
