"""How likely each neuron is to be in a set, given only its layer and loudness: the model behind the matched null.

A logistic regression with linear splines of the logarithm of each loudness's rank and of the depth, and one effect per
layer, fitted by penalised maximum likelihood. Rank 1 is the loudest, so the few loudest neurons, among which a set's
probability falls fastest, are far apart. Neurons of one layer and nearly equal rank are fitted together, so that the
cost does not grow with the model's width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Whole = NDArray[np.int64]
    Floats = NDArray[np.float64]
    Members = NDArray[np.bool_]

KNOT_EVERY = 0.7
"""Distance of the splines' knots in the logarithm of the rank: a rank twice as large."""
TOGETHER = 0.25
"""Neurons whose log ranks differ by less are fitted together."""
DEPTH_KNOTS = (0.25, 0.5, 0.75)
DEPTH_SCALE = 3.0
"""Scale of the depth, so that the penalty shrinks a trend over the layers less than the effect of a single layer."""
PENALTY = 0.3
STEPS, ENOUGH = 60, 1e-8


@dataclass(frozen=True, slots=True)
class Covariates:
    """Groups of similar neurons and the covariates of a set's probability.

    group: (neurons,) each neuron's group. sizes: (groups,). design: (groups, columns), the first column all ones.
    """

    group: Whole
    sizes: Whole
    design: Floats


def covariates(layer: Whole, loudness: Sequence[Floats]) -> Covariates:
    """The covariates of neurons, from their layers and loudnesses.

    layer: (neurons,). loudness: each (neurons,), not negative; none where only the layer is known.
    """
    import numpy as np

    count = len(layer)
    logs = [np.log(_ranks(loud)) for loud in loudness]
    key = layer.astype(np.int64)
    for log in logs:
        bins = np.round(log / TOGETHER).astype(np.int64)
        key = key * (int(bins.max()) + 1) + bins
    _, group = np.unique(key, return_inverse=True)
    sizes = np.bincount(group)
    largest = float(np.log(max(count, 1)))
    columns = [np.ones((len(sizes), 1))]
    columns += [_spline(np.bincount(group, log) / sizes, largest) for log in logs]
    group_layers = np.round(np.bincount(group, layer) / sizes).astype(np.int64)
    names, place = np.unique(group_layers, return_inverse=True)
    if len(names) > 1:
        depth = (group_layers - names[0]) / (names[-1] - names[0])
        trend = [depth - 0.5, *(np.maximum(depth - knot, 0) for knot in DEPTH_KNOTS)]
        columns += [np.stack(trend, 1) * DEPTH_SCALE, np.eye(len(names))[place]]
    return Covariates(group, sizes, np.concatenate(columns, 1))


def _ranks(loud: Floats) -> Floats:
    """(neurons,) 1 for the loudest; equal ones share their mean rank."""
    import numpy as np

    _, place, counts = np.unique(-loud, return_inverse=True, return_counts=True)
    ranks: Floats = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return ranks


def _spline(log: Floats, largest: float) -> Floats:
    import numpy as np

    knots = np.arange(largest - KNOT_EVERY, 1.0, -KNOT_EVERY)
    return np.concatenate([log[:, None] - largest, np.maximum(log[:, None] - knots, 0)], 1)


def probabilities(known: Covariates, members: Members) -> Floats:
    """(groups,) the probability that a neuron of each group is a member.

    members: (neurons,).
    """
    import numpy as np
    from scipy.special import expit

    share = float(members.mean())
    if share in (0.0, 1.0):
        return np.full(len(known.sizes), share)
    hits = np.bincount(known.group, members, minlength=len(known.sizes)).astype(np.float64)
    design, sizes = known.design, known.sizes
    penalty = np.full(design.shape[1], PENALTY)
    penalty[0] = 1e-6
    weights = np.zeros(design.shape[1])
    weights[0] = np.log(share / (1 - share))
    likelihood = _likelihood(weights, known, hits, penalty)
    for _ in range(STEPS):
        expected = expit(design @ weights)
        gradient = design.T @ (hits - sizes * expected) - penalty * weights
        curvature = (design * (sizes * expected * (1 - expected))[:, None]).T @ design + np.diag(penalty)
        step = np.linalg.solve(curvature, gradient)
        before = likelihood
        while (likelihood := _likelihood(weights + step, known, hits, penalty)) < before:
            step /= 2
            if np.abs(step).max() < ENOUGH:
                return np.asarray(expit(design @ weights))
        weights = weights + step
        if likelihood - before < ENOUGH * max(1.0, abs(before)):
            break
    return np.asarray(expit(design @ weights))


def _likelihood(weights: Floats, known: Covariates, hits: Floats, penalty: Floats) -> float:
    """The logarithm of the penalised likelihood, up to a constant."""
    import numpy as np

    logits = known.design @ weights
    return float((hits * logits - known.sizes * np.logaddexp(0, logits)).sum() - (penalty * weights**2).sum() / 2)
