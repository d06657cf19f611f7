"""Reduces a concept's pairs, compared with other pairs, to one number for each neuron, from sums that can be merged.

Positives are the (example, concept) pairs of the concept; negatives are those of the run's other concepts, and of
examples that show none of them (the job's `negatives`).

mean: over the positives. contrast: that mean minus the mean of the others' means, every concept counting equally.
cohens_d: the difference of the two means over the pooled standard deviation. auroc: the share of (positive, negative)
pairs that the score orders correctly, ties counting half, from histograms with four bins an octave: scores within a
fifth of each other may count as ties.
"""

from __future__ import annotations

import torch
from torch import Tensor

MEAN, CONTRAST, COHENS_D, AUROC = "mean", "contrast", "cohens_d", "auroc"
REDUCTIONS = (MEAN, CONTRAST, COHENS_D, AUROC)
USUAL = (MEAN, CONTRAST)

OCTAVES_BELOW, AN_OCTAVE, SIDE = 16, 4, 96
"""Bins for each sign: from 2^-16, four an octave, 96 of them; smaller values share the middle bin."""
BINS = 2 * SIDE + 1


def bins(scores: Tensor) -> Tensor:
    """The bin of every score, int64 in [0, BINS): the same on every machine, so that histograms merge."""
    size = scores.abs().clamp(min=2.0 ** -(OCTAVES_BELOW + 1))
    level = (AN_OCTAVE * (size.log2() + OCTAVES_BELOW)).floor().long().clamp(-1, SIDE - 1) + 1
    return SIDE + scores.sign().long() * level


def cohens_d(positives: tuple[Tensor, Tensor, int], negatives: tuple[Tensor, Tensor, int]) -> Tensor | None:
    """The difference of the means in pooled standard deviations; NaN where neither side varies, None with fewer than
    three pairs.

    positives, negatives: sum, sum of squares and number of the scores.
    """
    (first, n), (second, m) = ((_moments(*side), side[2]) for side in (positives, negatives))
    if n < 1 or m < 1 or n + m < 3:
        return None
    pooled = (first[1] * n + second[1] * m) / (n + m - 2)
    noise = 1e-10 * (first[0] ** 2 + second[0] ** 2)  # a variance of zero, up to rounding
    spread = torch.where(pooled > noise, pooled, torch.nan).sqrt()
    return (first[0] - second[0]) / spread


def _moments(total: Tensor, squares: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Mean and (biased) variance."""
    mean = total / max(count, 1)
    return mean, squares / max(count, 1) - mean**2


def auroc(positives: Tensor, negatives: Tensor) -> Tensor:
    """(...) the area under the ROC curve, from (..., BINS) histograms of both sides."""
    p, n = positives.double(), negatives.double()
    below = n.cumsum(-1) - n
    wins = (p * (below + n / 2)).sum(-1)
    return wins / (p.sum(-1) * n.sum(-1))
