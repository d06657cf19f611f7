"""The overlap nulls against enumeration, drawing, and SciPy."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from scipy.stats import false_discovery_control

from atlas.nulls import benjamini_hochberg, matched_cells, matched_statistics, overlap_statistics


def test_the_p_value_is_the_hypergeometric_tail() -> None:
    found = overlap_statistics((5, 4), 3, 20)
    ways = sum(math.comb(5, k) * math.comb(15, 4 - k) for k in (3, 4))
    assert found["p_value"] == pytest.approx(ways / math.comb(20, 4))
    assert found["expected"] == pytest.approx(5 * 4 / 20)
    assert found["lift"] == pytest.approx(3 / (5 * 4 / 20))


def test_only_is_about_what_the_second_lacks() -> None:
    found = overlap_statistics((5, 4), 1, 20, only=True)
    ways = sum(math.comb(5, k) * math.comb(15, 4 - k) for k in (0, 1))
    assert found["p_value"] == pytest.approx(ways / math.comb(20, 4))
    assert found["expected"] == pytest.approx(5 - 1)
    assert found["lift"] == pytest.approx(4 / 4)


@pytest.mark.parametrize("only", [False, True])
@pytest.mark.parametrize("shared", [0, 1, 2, 3])
def test_the_matched_null_is_every_exchange_within_cells(shared: int, only: bool) -> None:
    """All ways to draw the second set with its two neurons of cell 0 and one of cell 1, counted one by one."""
    cells = np.array([0] * 5 + [1] * 4 + [2] * 3)
    first, second = [0, 1, 2, 5, 9], {0: 2, 1: 1}
    counts = []
    for left in combinations(range(5), second[0]):
        for right in combinations(range(5, 9), second[1]):
            counts.append(len(set(first) & {*left, *right}))
    found = matched_statistics(cells[first], np.array([0, 0, 1]), cells, shared, only=only)
    as_far = [c <= shared if only else c >= shared for c in counts]
    assert found["p_value"] == pytest.approx(np.mean(as_far))
    mean = float(np.mean(counts))
    assert found["expected"] == pytest.approx(5 - mean if only else mean)
    assert found["lift"] == pytest.approx((5 - shared) / (5 - mean) if only else shared / mean)


def test_with_one_cell_the_two_nulls_agree() -> None:
    cells = np.zeros(500, dtype=int)
    found = matched_statistics(np.zeros(40, dtype=int), np.zeros(40, dtype=int), cells, 35)
    assert found == pytest.approx(overlap_statistics((40, 40), 35, 500))
    assert found["p_value"] is not None and 0 < found["p_value"] < 1e-30


def test_two_sets_of_one_layer_surprise_the_uniform_null_alone() -> None:
    """Independent draws from the same layer of ten: chance, which only the matched null knows."""
    generator = np.random.default_rng(0)
    cells = matched_cells([], 10, 100)
    uniform, matched = [], []
    for _ in range(100):
        first, second = (generator.choice(100, 20, replace=False) for _ in range(2))
        shared = len(set(first) & set(second))
        uniform.append(overlap_statistics((20, 20), shared, 1000)["p_value"])
        matched.append(matched_statistics(cells[first], cells[second], cells, shared)["p_value"])
    assert np.mean(np.array(uniform) < 0.05) > 0.7
    assert np.mean(np.array(matched) < 0.05) < 0.12


def test_cells_are_of_one_layer_and_one_bin_of_each_norm() -> None:
    generator = np.random.default_rng(0)
    first, second = generator.random((2, 3, 400))
    cells = matched_cells([first, second], 3, 400).reshape(3, 400)
    bins = int((400 / 20) ** 0.5)
    ranks = [np.argsort(np.argsort(norm, axis=1), axis=1) * bins // 400 for norm in (first, second)]
    for layer in range(3):
        for a in range(0, 400, 7):
            alike = (ranks[0][layer] == ranks[0][layer, a]) & (ranks[1][layer] == ranks[1][layer, a])
            same = cells == cells[layer, a]
            assert (same[layer] == alike).all() and not np.delete(same, layer, axis=0).any()
    assert matched_cells([first[:, :30]], 3, 30).tolist() == matched_cells([], 3, 30).tolist()  # too few to bin
    assert len(np.unique(matched_cells([first], 3, 400))) == 3 * 10


def test_q_values_are_scipys() -> None:
    values = [0.01, 0.2, 0.03, 0.03, 0.9, 1e-8, 0.5]
    assert benjamini_hochberg(values) == pytest.approx(list(false_discovery_control(values)))
    assert benjamini_hochberg([0.2]) == [0.2] and benjamini_hochberg([]) == []
