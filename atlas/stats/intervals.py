"""95 % intervals of means and shares whose observations come in clusters: wordings of one fact, questions of a picture.

A share has Wilson's score interval at its effective number of observations and at Student's quantile for the number of
clusters; a mean the wider of Student's interval and Hall's (1992) for skewed values. How often they cover the truth is
measured by simulation in `docs/statistics.md`.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

LEAST = 3
"""With fewer clusters, or random draws, no interval is given: they do not show how far others vary."""

LEVEL = 0.975
UNBOUNDED = (-math.inf, math.inf)


@dataclass(frozen=True, slots=True)
class Interval:
    """An interval. low, high: None with fewer than `LEAST` clusters or draws. clusters: their number. effective: the
    number of independent observations that carry the same information; None where that is not known."""

    low: float | None
    high: float | None
    clusters: int
    effective: float | None = None


def of_values(values: Sequence[float] | Floats, bounds: tuple[float, float] = UNBOUNDED) -> Interval:
    """The interval of the mean of independent values. bounds: the smallest and largest possible value."""
    import numpy as np

    sample = np.asarray(values, dtype=np.float64)
    if len(sample) < LEAST:
        return Interval(None, None, len(sample), float(len(sample)))
    middle = float(sample.mean())
    variance, skew = _moments(sample - middle)
    low, high = _of_mean(middle, math.sqrt(variance / len(sample)), skew, len(sample), len(sample) - 1, bounds)
    return Interval(low, high, len(sample), float(len(sample)))


def of_sums(
    total: float, squares: float, cubes: float, count: int, bounds: tuple[float, float] = UNBOUNDED
) -> Interval:
    """`of_values` from the sums of the values, of their squares and of their cubes."""
    if count < LEAST:
        return Interval(None, None, count, float(count))
    mean = total / count
    second = max(squares / count - mean**2, 0.0)
    third = cubes / count - 3 * mean * squares / count + 2 * mean**3
    skew = third / second**1.5 if second > 1e-12 * max(mean**2, 1e-30) else 0.0
    error = math.sqrt(second / (count - 1))
    low, high = _of_mean(mean, error, skew, count, count - 1, bounds)
    return Interval(low, high, count, float(count))


def of_clusters(
    values: Floats,
    clusters: Sequence[Hashable],
    *,
    share: bool,
    drawn: bool = False,
    bounds: tuple[float, float] = UNBOUNDED,
) -> Interval:
    """The interval of the mean of values that are correlated within clusters.

    values: (draws, observations), one row for each random draw of what was measured, or a single row. clusters:
    (observations,) the cluster of each. share: the values are 0 or 1. drawn: the rows are random draws, so that their
    own variance counts, and with fewer than `LEAST` there is no interval.
    """
    import numpy as np
    from scipy.stats import t

    draws, count = values.shape
    names = {name: place for place, name in enumerate(dict.fromkeys(clusters))}
    place = np.array([names[name] for name in clusters])
    groups = len(names)
    mean = float(values.mean())
    each: Floats = np.bincount(place, values.mean(0) - mean).astype(np.float64)
    sizes = np.bincount(place).astype(np.float64)
    within = groups / max(groups - 1, 1) * float((each**2).sum()) / count**2
    among = float(values.mean(1).var(ddof=1)) / draws if draws > 1 else 0.0
    variance = within + among
    freedom = groups - 1.0
    if among > 0:  # Satterthwaite's
        freedom = variance**2 / ((within**2 / max(groups - 1, 1)) + among**2 / (draws - 1))
    effective = _effective(mean, within, among, sizes) if share else None
    if groups < LEAST or (drawn and draws < LEAST):
        return Interval(None, None, groups, effective)
    if effective is not None:
        low, high = wilson(mean, effective, float(t.ppf(LEVEL, freedom)))
        return Interval(low, high, groups, effective)
    _, skew = _moments(each)
    skew *= (within / variance) ** 1.5 if variance > 0 else 0.0
    low, high = _of_mean(mean, math.sqrt(variance), skew, groups, freedom, bounds)
    independent = float(values.var()) / variance if variance > 0 else float(groups)
    return Interval(low, high, groups, min(float(count), independent))


def _effective(mean: float, within: float, among: float, sizes: Floats) -> float:
    """The effective number of independent answers: the answers over their design effect (Kish 1965).

    within, among: the variance of the mean over clusters and over draws. sizes: of the clusters. The correlation within
    clusters is estimated from the variance, and shrunk towards 1 more strongly the fewer clusters there are. Where all
    answers are equal it cannot be estimated, and every cluster counts once.
    """
    count, groups = float(sizes.sum()), len(sizes)
    alone = mean * (1 - mean) / count
    if alone <= 0:
        return float(groups)
    size = float((sizes**2).sum()) / count  # of the cluster of an answer, on average
    design = 1.0
    if size > 1:
        correlation = min(1.0, max(0.0, (within / alone - 1) / (size - 1)))
        weight = 2 / (groups + 2)
        design = max(within / alone, 1 + (size - 1) * (correlation * (1 - weight) + weight))
    return count / (design + among / alone)


def wilson(share: float, count: float, quantile: float) -> tuple[float, float]:
    """Wilson's score interval (1927) of a share among `count` independent answers, which need not be a whole number."""
    square = quantile**2
    middle = (share + square / (2 * count)) / (1 + square / count)
    half = quantile / (1 + square / count) * math.sqrt(share * (1 - share) / count + square / (4 * count**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def _moments(deviations: Floats) -> tuple[float, float]:
    """The variance, and the skewness, of values from their deviations."""
    square = float((deviations**2).mean())
    variance = square * len(deviations) / (len(deviations) - 1)
    return variance, float((deviations**3).mean()) / square**1.5 if square > 0 else 0.0


def _of_mean(
    mean: float, error: float, skew: float, count: int, freedom: float, bounds: tuple[float, float]
) -> tuple[float, float]:
    """The wider, at either end, of Student's interval and of Hall's, which transforms the statistic to remove its
    skewness; clipped to the bounds.

    Hall 1992, "On the removal of skewness by transformation": T + a T^2 / 3 + a^2 T^3 / 27 + a / 6 with a the skewness
    over the root of the count. The skewness of a small sample is too small, and is multiplied by 1 + 6 / count.
    """
    from scipy.stats import t

    quantile = float(t.ppf(LEVEL, freedom))
    a = skew * (1 + 6 / count) / math.sqrt(count)
    ends = [quantile, -quantile]
    if abs(a) > 1e-6:
        ends = [3 / a * (math.cbrt(1 + a * (z - a / 6)) - 1) for z in ends]
    low, high = mean - max(quantile, ends[0]) * error, mean - min(-quantile, ends[1]) * error
    return max(bounds[0], low), min(bounds[1], high)
