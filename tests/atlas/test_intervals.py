"""Intervals against SciPy, statistics by hand, and how often they cover the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from calibration import SKEWED, drawn_coverage, mean_coverage, share_coverage
from scipy.stats import binomtest, t

from atlas.stats.intervals import of_clusters, of_sums, of_values, wilson


@pytest.mark.parametrize(("right", "count"), [(0, 10), (7, 10), (10, 10)])
def test_wilson_is_scipys(right: int, count: int) -> None:
    reference = binomtest(right, count).proportion_ci(method="wilson")
    assert wilson(right / count, count, 1.959964) == pytest.approx((reference.low, reference.high), abs=1e-6)


def test_without_skewness_a_mean_has_students_interval() -> None:
    found = of_values([0.1, 0.2, 0.3])
    assert (found.low, found.high) == pytest.approx(
        (0.2 - 4.3027 * 0.1 / 3**0.5, 0.2 + 4.3027 * 0.1 / 3**0.5), rel=1e-4
    )
    assert found.clusters == 3
    bounded = of_values([0.1, 0.2, 0.3], (0.0, 0.4))
    assert (bounded.low, bounded.high) == (0.0, 0.4)


def test_skewed_values_have_halls_end_on_their_long_side() -> None:
    values = [0.1, 0.2, 0.15, 0.3, 5.0, 0.2]
    n, mean = len(values), float(np.mean(values))
    error = float(np.std(values, ddof=1)) / n**0.5
    skew = float(np.mean((np.array(values) - mean) ** 3) / np.std(values) ** 3) * (1 + 6 / n)
    a, q = skew / n**0.5, float(t.ppf(0.975, n - 1))
    found = of_values(values)
    assert found.low == pytest.approx(mean - q * error)  # Student's is wider there

    def hall(statistic: float) -> float:  # what is symmetric
        return statistic + a * statistic**2 / 3 + a**2 * statistic**3 / 27 + a / 6

    assert found.high is not None and hall((mean - found.high) / error) == pytest.approx(-q)


def test_the_sums_give_the_same_interval() -> None:
    values = np.random.default_rng(0).exponential(size=9)
    from_sums = of_sums(values.sum(), (values**2).sum(), (values**3).sum(), 9)
    whole = of_values(values)
    assert (from_sums.low, from_sums.high) == pytest.approx((whole.low, whole.high))


@pytest.mark.parametrize("share", [True, False])
def test_nothing_is_said_of_two_clusters_or_draws(share: bool) -> None:
    two = of_clusters(np.array([[1.0, 0, 1, 1]]), ["a", "a", "b", "b"], share=share)
    assert (two.low, two.high, two.clusters) == (None, None, 2)
    values = np.array([[1.0, 0, 1, 1], [1, 0, 0, 1]])
    drawn = of_clusters(values, list("abcd"), share=share, drawn=True)
    assert (drawn.low, drawn.high, drawn.clusters) == (None, None, 4)
    assert of_clusters(values[:1], list("abcd"), share=share).low is not None
    assert of_values([1.0, 2.0]).low is None and of_sums(3, 5, 9, 2).low is None


def test_wordings_of_one_fact_count_once() -> None:
    """Three facts in four wordings each, all alike: the interval of three answers."""
    answers = np.repeat([1.0, 1.0, 0.0], 4)[None]
    found = of_clusters(answers, np.repeat([0, 1, 2], 4).tolist(), share=True)
    assert found.clusters == 3 and found.effective == pytest.approx(2, abs=1)
    alone = of_clusters(answers, list(range(12)), share=True)
    assert alone.effective == 12
    widths = [(f.high or 0) - (f.low or 0) for f in (found, alone)]
    assert widths[0] > 2 * widths[1] * 0.8
    sure = of_clusters(np.ones((1, 12)), np.repeat([0, 1, 2], 4).tolist(), share=True)
    assert sure.effective == 3 and sure.high == 1 and (sure.low or 1) < 0.3


def test_the_variance_is_the_cluster_robust_one() -> None:
    """Unequal clusters, by hand: the interval's half width is the quantile times the sandwich error."""
    values, clusters = np.array([1.0, 2, 3, 4, 6]), ["a", "a", "b", "c", "c"]
    mean = 3.2
    residuals = [(1 - mean) + (2 - mean), 3 - mean, (4 - mean) + (6 - mean)]
    error = math.sqrt(3 / 2 * sum(r**2 for r in residuals)) / 5
    found = of_clusters(values[None], clusters, share=False)
    assert found.low is not None and found.high is not None
    assert found.low <= mean - t.ppf(0.975, 2) * error + 1e-9 and found.high >= mean + t.ppf(0.975, 2) * error - 1e-9


def test_random_draws_add_their_own_variance() -> None:
    generator = np.random.default_rng(0)
    values = generator.normal(size=(5, 40)) + 3 * generator.normal(size=(5, 1))
    clusters = list(range(40))
    found, one = (of_clusters(v, clusters, share=False, drawn=True) for v in (values, values[[0, 0, 0, 0, 0]]))
    assert (found.high or 0) - (found.low or 0) > 5 * ((one.high or 0) - (one.low or 0))


@pytest.mark.parametrize("alike", [0.0, 0.85, 1.0])
@pytest.mark.parametrize("groups", [3, 10, 30])
def test_shares_of_clusters_are_covered(groups: int, alike: float) -> None:
    """Wilson's interval of the single answers covers in 43 % of draws where wordings of a fact are all alike."""
    assert share_coverage(0.8, groups, 4, alike, 300) >= 0.92 - 2 * math.sqrt(0.92 * 0.08 / 300)


@pytest.mark.nightly
@pytest.mark.parametrize("share", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("alike", [0.0, 0.5, 0.85, 1.0])
@pytest.mark.parametrize("each", [4, 10])
@pytest.mark.parametrize("groups", [3, 5, 10, 30, 100])
def test_every_share_is_covered(share: float, alike: float, each: int, groups: int) -> None:
    """Rare answers that come in rare clusters are the hardest: 0.88 to 0.9 of draws."""
    least = 0.88 if share == 0.95 and each == 10 else 0.92
    assert share_coverage(share, groups, each, alike, 1500) >= least - 2 * math.sqrt(least * (1 - least) / 1500)


@pytest.mark.nightly
@pytest.mark.parametrize("kind", SKEWED)
@pytest.mark.parametrize("groups", [4, 6, 10, 20, 50])
def test_every_mean_is_covered(kind: str, groups: int) -> None:
    """A log-normal metric of ten values or fewer is the hardest."""
    least = 0.88 if kind == "log-normal 1" and groups < 10 else 0.92
    assert mean_coverage(kind, groups, 1500) >= least - 2 * math.sqrt(least * (1 - least) / 1500)


@pytest.mark.nightly
@pytest.mark.parametrize("among", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("groups", [4, 12, 50])
def test_every_mean_over_draws_is_covered(groups: int, seeds: int, among: float) -> None:
    assert drawn_coverage(groups, 4, seeds, among, 1000) >= 0.92 - 2 * math.sqrt(0.92 * 0.08 / 1000)
