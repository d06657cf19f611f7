"""Neuron values of every position, reduced over some of them without a second copy of them all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from atlas.live.matmul import product

CELLS = 2**27
"""How many values behind the shortest row's end are copied at a time."""


def chunks(values: Tensor) -> Iterator[tuple[slice, slice]]:
    """Rows and positions of (B, T, N) values whose intermediate results fit in the CPU's cache, or a GPU's memory."""
    rows, positions, neurons = values.shape
    cells = 2**19 if values.device.type == "cpu" else 2**28
    step, length = max(1, cells // (positions * neurons)), max(32, cells // neurons)
    for row in range(0, rows, step):
        for position in range(0, positions, length):
            yield slice(row, row + step), slice(position, position + length)


def sums(masks: Tensor, values: Tensor, times: Tensor | None = None) -> Tensor:
    """(B, M, N) float32: values (B, T, N), times others where given, summed over the positions of masks (B, M, T), of
    0 and 1."""
    if times is None:
        return product(masks.to(values.dtype), values)
    found = masks.new_zeros(*masks.shape[:2], values.shape[-1])
    for rows, at in chunks(values):
        found[rows].baddbmm_(masks[rows, :, at], values[rows, at].float() * times[rows, at])
    return found


def sent(numbers: Sequence[Any], device: torch.device) -> Tensor:
    """A list of numbers as a tensor on a device; a GPU goes on with its work meanwhile."""
    found = torch.tensor(numbers)
    return found.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else found.to(device)


def least(layers: Sequence[Tensor], lengths: Sequence[int]) -> Tensor:
    """(L, N) each neuron's least value in (B, T, N) values of each layer, of which a row's first `lengths` count."""
    short = min(lengths)
    found = torch.stack([values[:, :short].amin(1).amin(0) for values in layers])
    for which, tails, beyond in _tails(layers, short, lengths):
        found[which] = torch.minimum(found[which], tails.masked_fill(beyond, torch.inf).amin(2).amin(1))
    return found


def greatest(layers: Sequence[Tensor], lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
    """(L, B, N) each row's greatest value of each neuron, and at which of its first `lengths` positions."""
    short = min(lengths)
    found = [values[:, :short].max(1) for values in layers]
    peak, at = torch.stack([f.values for f in found]), torch.stack([f.indices for f in found])
    for which, tails, beyond in _tails(layers, short, lengths):
        later = tails.masked_fill(beyond, -torch.inf).max(2)
        better = (later.values > peak[which]) | later.values.isnan()
        peak[which] = torch.where(better, later.values, peak[which])
        at[which] = torch.where(better, later.indices + short, at[which])
    return peak, at


def _tails(layers: Sequence[Tensor], short: int, lengths: Sequence[int]) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Some layers' (l, B, t, N) values behind the shortest row's end, and which positions are behind the own row's.

    What all rows have is so read once, without a copy that has its padding taken out.
    """
    rows, positions, neurons = layers[0].shape
    if short == positions:
        return
    device = layers[0].device
    beyond = torch.arange(short, positions, device=device)[:, None] >= sent(lengths, device)[:, None, None]
    step = max(1, CELLS // (rows * (positions - short) * neurons))
    for first in range(0, len(layers), step):
        some = slice(first, first + step)
        yield some, torch.stack([values[:, short:] for values in layers[some]]), beyond
