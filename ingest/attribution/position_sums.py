"""Reductions of neuron values over some positions, without copying all values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from atlas.live.matmul import product

CELLS = 2**27
"""How many values past the shortest row's end are copied at a time."""


def chunks(values: Tensor) -> Iterator[tuple[slice, slice]]:
    """Rows and positions of (B, T, N) values whose intermediate results fit in the CPU's cache, or a GPU's memory."""
    rows, positions, neurons = values.shape
    cells = 2**19 if values.device.type == "cpu" else 2**28
    step, length = max(1, cells // (positions * neurons)), max(32, cells // neurons)
    for row in range(0, rows, step):
        for position in range(0, positions, length):
            yield slice(row, row + step), slice(position, position + length)


def sums(masks: Tensor, values: Tensor, times: Tensor | None = None) -> Tensor:
    """(B, M, N) float32: (B, T, N) values, multiplied by `times` where given, summed over the positions of (B, M, T)
    masks of 0 and 1."""
    if times is None:
        return product(masks.to(values.dtype), values)
    totals = masks.new_zeros(*masks.shape[:2], values.shape[-1])
    for rows, span in chunks(values):
        totals[rows].baddbmm_(masks[rows, :, span], values[rows, span].float() * times[rows, span])
    return totals


def sent(numbers: Sequence[Any], device: torch.device) -> Tensor:
    """A list of numbers as a tensor on a device, without making a GPU wait."""
    host_tensor = torch.tensor(numbers)
    return host_tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host_tensor.to(device)


def least(layers: Sequence[Tensor], lengths: Sequence[int]) -> Tensor:
    """(L, N): each neuron's least value in the layers' (B, T, N) values, over each row's first `lengths` positions."""
    short = min(lengths)
    lowest = torch.stack([values[:, :short].amin(1).amin(0) for values in layers])
    for layer_slice, tails, beyond in _tails(layers, short, lengths):
        lowest[layer_slice] = torch.minimum(lowest[layer_slice], tails.masked_fill(beyond, torch.inf).amin(2).amin(1))
    return lowest


def greatest(layers: Sequence[Tensor], lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
    """(L, B, N) each: each row's greatest value of each neuron over its first `lengths` positions, and its position."""
    short = min(lengths)
    maxima = [values[:, :short].max(1) for values in layers]
    peak, position = (
        torch.stack([maximum.values for maximum in maxima]),
        torch.stack([maximum.indices for maximum in maxima]),
    )
    for layer_slice, tails, beyond in _tails(layers, short, lengths):
        later = tails.masked_fill(beyond, -torch.inf).max(2)
        better = (later.values > peak[layer_slice]) | later.values.isnan()
        peak[layer_slice] = torch.where(better, later.values, peak[layer_slice])
        position[layer_slice] = torch.where(better, later.indices + short, position[layer_slice])
    return peak, position


def _tails(layers: Sequence[Tensor], short: int, lengths: Sequence[int]) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Some layers' (l, B, t, N) values past the shortest row's end, and which of these positions are padding.

    The positions that all rows have can thus be read in place, without masking a copy.
    """
    rows, positions, neurons = layers[0].shape
    if short == positions:
        return
    device = layers[0].device
    beyond = torch.arange(short, positions, device=device)[:, None] >= sent(lengths, device)[:, None, None]
    step = max(1, CELLS // (rows * (positions - short) * neurons))
    for first in range(0, len(layers), step):
        layer_slice = slice(first, first + step)
        yield layer_slice, torch.stack([values[:, short:] for values in layers[layer_slice]]), beyond
