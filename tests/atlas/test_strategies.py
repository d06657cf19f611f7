"""MINER's selection against the published algorithm written out in loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from atlas.errors import UsageError
from ingest.label_rules._strategies import STRATEGIES, best, select

Pairs = dict[int, set[tuple[int, int]]]


def published(importance: Any, ratio: float, strategy: str) -> Pairs:
    """Modality -> (layer, neuron), one element at a time; equal values in the order in which they are met."""
    modalities, layers, width = importance.shape
    budget = int(ratio * layers * width)
    found: Pairs = {m: set() for m in range(modalities)}

    def top(values: list[tuple[float, tuple[int, int, int]]], count: int) -> list[tuple[int, int, int]]:
        return [where for _, where in sorted(values, key=lambda v: -v[0])[:count]]  # sorted keeps ties in order

    if strategy == "uniform":
        for layer in range(layers):
            for m in range(modalities):
                values = [(importance[m, layer, n], (m, layer, n)) for n in range(width)]
                for _, at, n in top(values, budget // (modalities * layers)):
                    found[m].add((at, n))
    elif strategy == "adaptive":
        values = []
        for layer in range(layers):
            for n in range(width):
                total = importance[0, layer, n]
                for m in range(1, modalities):
                    total = total + importance[m, layer, n]
                values.append((total, (0, layer, n)))
        for _, layer, n in top(values, budget):
            owner, most = 0, float("-inf")
            for m in range(modalities):
                if importance[m, layer, n] > most:
                    owner, most = m, importance[m, layer, n]
            found[owner].add((layer, n))
    elif strategy == "LA_MU":
        for m in range(modalities):
            values = [(importance[m, at, n], (m, at, n)) for at in range(layers) for n in range(width)]
            for _, at, n in top(values, budget // modalities):
                found[m].add((at, n))
    elif strategy == "LU_MA":
        for layer in range(layers):
            values = [(importance[m, layer, n], (m, layer, n)) for m in range(modalities) for n in range(width)]
            for m, at, n in top(values, budget // layers):
                found[m].add((at, n))
    return found


@pytest.mark.parametrize("strategy", ["uniform", "adaptive", "LA_MU", "LU_MA"])
@pytest.mark.parametrize("ratio", [0.001, 0.02, 0.1, 0.37, 1.0])
@pytest.mark.parametrize(("shape", "levels"), [((3, 4, 50), 0), ((2, 3, 40), 6), ((1, 2, 30), 0), ((5, 1, 64), 9)])
def test_every_strategy_is_the_published_one(
    strategy: str, ratio: float, shape: tuple[int, int, int], levels: int
) -> None:
    generator = np.random.default_rng(1)
    importance = generator.integers(levels, size=shape).astype(np.float32) if levels else generator.random(shape)
    chosen = select(importance, ratio, strategy, ties="published")
    found = {m: {(int(a), int(b)) for a, b in zip(*np.nonzero(chosen[m]), strict=True)} for m in range(shape[0])}
    assert found == published(importance, ratio, strategy)


def test_the_budget_is_of_all_neurons_and_adaptive_alone_has_no_overlap() -> None:
    importance = np.random.default_rng(0).random((3, 4, 300))
    counts = {name: select(importance, 0.1, name).sum(axis=(1, 2)) for name in STRATEGIES}
    assert counts["uniform"].tolist() == [4 * (120 // 12)] * 3
    assert counts["LA_MU"].tolist() == [120 // 3] * 3
    assert counts["LU_MA"].sum() == counts["adaptive"].sum() == 120
    assert select(importance, 0.1, "adaptive").sum(axis=0).max() == 1
    assert select(importance, 0.1, "LA_MU").sum(axis=0).max() > 1


def test_the_random_control_is_k_draws_with_replacement_for_every_modality() -> None:
    importance = np.zeros((3, 4, 300))
    chosen = select(importance, 0.5, "random", seed=3)
    assert (chosen[0] == chosen[1]).all() and (chosen[0] == chosen[2]).all()
    expected = 1200 * (1 - (1 - 1 / 1200) ** 600)  # distinct neurons in 600 draws of 1200
    assert abs(chosen[0].sum() - expected) < 40
    assert (select(importance, 0.5, "random", seed=3) == chosen).all()
    assert (select(importance, 0.5, "random", seed=4) != chosen).any()


def test_equal_values_are_chosen_in_order() -> None:
    assert best(np.array([1.0, 2.0, 2.0, 0.0, 2.0]), 2).tolist() == [False, True, True, False, False]
    assert best(np.array([[1, 1, 1], [0, 5, 1]]), 1).tolist() == [[True, False, False], [False, True, False]]
    assert not best(np.ones(3), 0).any() and best(np.ones(3), 3).all()


@pytest.mark.parametrize("strategy", ["uniform", "adaptive", "LA_MU", "LU_MA"])
def test_ties_are_drawn_over_all_layers(strategy: str) -> None:
    """All importances alike: every layer and modality gets about its share, and another seed draws others."""
    importance = np.ones((2, 6, 200))
    chosen = select(importance, 0.2, strategy, seed=0)
    assert chosen.sum() == select(importance, 0.2, strategy, ties="published").sum()
    by_layer, by_modality = chosen.sum(axis=(0, 2)), chosen.sum(axis=(1, 2))
    assert by_layer.min() > 0.4 * by_layer.mean() and by_modality.min() > 0.7 * by_modality.mean()
    assert (select(importance, 0.2, strategy, seed=0) == chosen).all()
    assert (select(importance, 0.2, strategy, seed=1) != chosen).any()


def test_what_is_above_the_ties_is_chosen_whatever_is_drawn() -> None:
    values = np.array([0.0, 3, 1, 1, 1, 1, 2, 0])
    for seed in range(10):
        chosen = best(values, 4, np.random.default_rng(seed))
        assert chosen[[1, 6]].all() and chosen[2:6].sum() == 2 and chosen.sum() == 4


@pytest.mark.parametrize(
    ("shape", "ratio", "strategy", "message"),
    [
        ((1, 2, 3), 0.5, "LAMU", "no selection strategy called 'LAMU'; did you mean 'LA_MU'"),
        ((1, 2, 3), 0.0, "LA_MU", "at most 1, not 0"),
        ((1, 2, 3), 1.5, "LA_MU", "at most 1, not 1.5"),
        ((2, 3), 0.5, "LA_MU", r"not of shape \(2, 3\)"),
    ],
)
def test_what_cannot_be_selected_from(shape: tuple[int, ...], ratio: float, strategy: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        select(np.ones(shape), ratio, strategy)


def test_an_unknown_order_of_ties_is_refused() -> None:
    with pytest.raises(UsageError, match="no order of ties called 'first'"):
        select(np.ones((1, 2, 3)), 0.5, "LA_MU", ties="first")


def test_an_importance_that_is_no_number_is_refused() -> None:
    with pytest.raises(UsageError, match="not a number"):
        select(np.full((1, 2, 3), np.nan), 0.5, "LA_MU")
