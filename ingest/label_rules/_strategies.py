"""MINER's selection of modality-specific neurons (Huang et al. 2024, arXiv 2410.04819; released code).

All five rules choose about K = int(ratio * L * N) neurons from importances (M modalities, L layers, N neurons), each
for a modality. The same neuron may be chosen for several modalities, except by `adaptive`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from atlas.errors import UsageError, unknown

Importance = NDArray[np.floating]
Chosen = NDArray[np.bool_]


Lots = np.random.Generator | None
"""Breaks ties at random; None: in order, which prefers the first layers, as in the released code."""

DRAWN, PUBLISHED = TIES = ("drawn", "published")


def select(importance: Importance, ratio: float, strategy: str, seed: int = 0, ties: str = DRAWN) -> Chosen:
    """Which neurons are specific to which modality.

    importance: (M, L, N), larger is more important; MINER's is the weighted sum of five metrics, each min-max
    normalised within a layer. ratio: the share of all L * N neurons that may be chosen, 0 < ratio <= 1 (the paper's
    is 0.02). strategy: a name of STRATEGIES. seed: of `random`, and of the order of equal importances. ties: drawn, or
    published, where of equal importances the one that comes first in (modality, layer, neuron) order is chosen.

    Returns (M, L, N): True where the neuron is chosen for the modality. The same input always gives the same neurons.
    Budgets are whole numbers and rounded down as published, so fewer than K may be chosen, or none where K is below
    M * L.

    Raises:
        UsageError: an unknown strategy, a ratio outside (0, 1], not three axes, or an importance that is not a number.
    """
    if ties not in TIES:
        raise unknown("order of ties", ties, TIES, "atlas labels --help")
    if strategy not in STRATEGIES:
        raise unknown("selection strategy", strategy, STRATEGIES, "atlas labels --help")
    if not 0 < ratio <= 1:
        raise UsageError(f"the ratio is a share of all neurons, above 0 and at most 1, not {ratio:g}")
    if importance.ndim != 3:
        raise UsageError(f"importances are (modality, layer, neuron), not of shape {importance.shape}")
    if np.isnan(importance).any():
        raise UsageError("an importance is not a number (a layer with one constant value, min-max normalised?)")
    budget = int(ratio * importance.shape[1] * importance.shape[2])
    if strategy == RANDOM:
        return random(importance, budget, seed)
    return STRATEGIES[strategy](importance, budget, np.random.default_rng(seed) if ties == DRAWN else None)


def uniform(importance: Importance, budget: int, lots: Lots = None) -> Chosen:
    """Every layer and every modality alike: the top K // (M * L) neurons of each."""
    modalities, layers, _ = importance.shape
    return best(importance, budget // (modalities * layers), lots)


def adaptive(importance: Importance, budget: int, lots: Lots = None) -> Chosen:
    """The top K of the sum over modalities, each for the modality in which it is most important: no overlap."""
    total = importance.sum(axis=0)
    chosen = best(total.reshape(-1), budget, lots).reshape(total.shape)
    modality = np.arange(len(importance))[:, None, None]
    owner = importance.argmax(axis=0)
    if lots is not None:
        keys = np.where(importance == importance.max(axis=0), lots.random(importance.shape), -1.0)
        owner = keys.argmax(axis=0)
    owned: Chosen = chosen & (owner == modality)
    return owned


def la_mu(importance: Importance, budget: int, lots: Lots = None) -> Chosen:
    """Layers adaptive, modalities uniform (the default): of each modality the top K // M over all layers."""
    flat = importance.reshape(len(importance), -1)
    return best(flat, budget // len(importance), lots).reshape(importance.shape)


def lu_ma(importance: Importance, budget: int, lots: Lots = None) -> Chosen:
    """Layers uniform, modalities adaptive: of each layer the top K // L of its (modality, neuron) pairs."""
    modalities, layers, width = importance.shape
    pairs = importance.transpose(1, 0, 2).reshape(layers, -1)
    chosen = best(pairs, budget // layers, lots).reshape(layers, modalities, width)
    return chosen.transpose(1, 0, 2)


def random(importance: Importance, budget: int, seed: int = 0) -> Chosen:
    """The control: K draws of a neuron with replacement, so at most K; they belong to no modality and are in each."""
    chosen = np.zeros(importance[0].size, dtype=bool)
    chosen[np.random.default_rng(seed).integers(chosen.size, size=budget)] = True
    return np.broadcast_to(chosen.reshape(importance.shape[1:]), importance.shape).copy()


def best(values: Importance, count: int, lots: Lots = None) -> Chosen:
    """Where the `count` largest values of the last axis are; ties are broken at random, or by order."""
    if count < 1:
        return np.zeros(values.shape, dtype=bool)
    last = values.shape[-1] - count
    least = np.partition(values, last, axis=-1)[..., last, None]
    above, equal = values > least, values == least
    room = count - above.sum(axis=-1, keepdims=True)
    if lots is None or (equal.sum(axis=-1, keepdims=True) == room).all():
        order = np.cumsum(equal, axis=-1)
    else:
        keys = np.where(equal, lots.random(values.shape), 2.0)
        order = 1 + np.argsort(np.argsort(keys, axis=-1), axis=-1)
    chosen: Chosen = above | (equal & (order <= room))
    return chosen


RANDOM = "random"
STRATEGIES: Mapping[str, Callable[..., Chosen]] = {
    "uniform": uniform,
    "adaptive": adaptive,
    "LA_MU": la_mu,
    "LU_MA": lu_ma,
    RANDOM: random,
}
