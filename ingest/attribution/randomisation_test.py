"""Does a neuron's value fall further when the thing is removed than when as much is removed elsewhere?

Each picture gives K + 1 versions of a value V: V_0 with the thing removed, V_1 to V_K with the same shape removed at
random places. If the thing's place is like any other, the versions are exchangeable. With the contrast of version i,
c_i = V_i - mean of the others, the statistic of a neuron over the n pictures is

    T = sum over pictures of c_0 / sqrt(n q),      q = mean over pictures and versions of c_i^2

with q shrunk towards its median over the layer's neurons. The null uses a version drawn at random for each picture, the
same for all neurons, so that what moves many neurons together does so in the null too. The drawn statistics of a
layer's neurons are pooled, p is the rank of T among them, and Benjamini and Hochberg's (1995) false discovery rate is
controlled over all neurons that move in any version. `docs/statistics.md` has the measured error rates.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping

import torch
from torch import Tensor

from ingest.attribution.trace import Trace

LEAST = 6
"""The fewest examples to test with."""

POOLED = 8192
"""About how many drawn statistics a layer should have, from 2 to 16 draws."""

PRIOR = 3.0
"""How many pictures the layer's median q counts as."""

CONTRAST, SQUARE, DRAWN = "contrast", "square", "drawn"


def assignments(trace: Trace, versions: int) -> Tensor:
    """(draws, P) int64: the version that takes the place of V_0 in each draw, for every pair of the batch.

    The same on every machine, and for all questions about one picture.
    """
    width = trace.live.layout.width
    draws = min(16, max(2, math.ceil(POOLED / width)))
    names = [trace.items[row].cluster or str(trace.items[row].number) for row in trace.row_of]
    chosen = [
        [
            zlib.crc32(f"{draw} {name} {concept}".encode()) % versions
            for name, concept in zip(names, trace.concepts, strict=True)
        ]
        for draw in range(draws)
    ]
    return torch.tensor(chosen, device=trace.pairs.device)


def sums_of_contrasts(values: Tensor, drawn: Tensor) -> dict[str, Tensor]:
    """The quantities to sum over pictures: part -> (L, P, N).

    values: (K + 1, L, P, N), the version without the thing first. drawn: (draws, P).
    """
    versions = values.shape[0]
    contrasts = (versions * values - values.sum(0)) / (versions - 1)
    parts = {CONTRAST: contrasts[0], SQUARE: contrasts.square().mean(0)}
    pairs = torch.arange(values.shape[2], device=values.device)
    for draw, chosen in enumerate(drawn):
        parts[f"{DRAWN}{draw}"] = contrasts[chosen, :, pairs].movedim(0, 1)
    return parts


def exceeding(means: Mapping[str, Tensor], pictures: int, rate: float) -> Tensor:
    """(L, N) bool: the neurons whose value falls further without the thing, at this false discovery rate.

    means: over the pictures, by part of `sums_of_contrasts`.
    """
    from scipy.stats import false_discovery_control

    p = p_values(means, pictures)
    moving = p.isfinite()
    passing = torch.zeros_like(moving)
    if moving.any():
        passing[moving] = torch.from_numpy(false_discovery_control(p[moving].numpy()) <= rate)
    return passing


def p_values(means: Mapping[str, Tensor], pictures: int) -> Tensor:
    """(L, N) float64 p-values, NaN for neurons that do not move in any version."""
    square = means[SQUARE].double().cpu()
    drawn = torch.stack([mean.double().cpu() for name, mean in means.items() if name.startswith(DRAWN)])
    contrast = means[CONTRAST].double().cpu()
    p = torch.full_like(square, torch.nan)
    for layer, layer_square in enumerate(square):
        moving = layer_square > 0
        if not moving.any():
            continue
        spread = (PRIOR * layer_square[moving].median() + pictures * layer_square[moving]) / (PRIOR + pictures)
        scale = (pictures / spread).sqrt()
        null = (drawn[:, layer, moving] * scale).flatten().sort().values
        above = len(null) - torch.searchsorted(null, contrast[layer, moving] * scale)
        p[layer, moving] = (1 + above.double()) / (1 + len(null))
    return p
