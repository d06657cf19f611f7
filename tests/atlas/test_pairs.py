"""Agreement between methods against SciPy on the resampled neurons themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from atlas.api.atlas import Atlas
from atlas.stats.method_pairs import weighted_agreement


def top(scores: Any, chosen: Any, count: int) -> list[int]:
    """The best of the chosen neurons, which may be there several times; equal scores in the neurons' order. Zeros below
    a positive best are in no top."""
    best = sorted(chosen, key=lambda n: (-scores[n], n))[:count]
    return [n for n in best if scores[n] != 0 or max(scores) <= 0]


@pytest.mark.parametrize("levels", [7, 10**6])
def test_weights_are_the_same_as_repeating_neurons(levels: int) -> None:
    generator = np.random.default_rng(0)
    scores = generator.integers(levels, size=(3, 240)).astype(float)
    scores[1] += scores[0] / 2
    ranks = np.stack([np.argsort(np.lexsort((np.arange(240), -row))) for row in scores])
    drawn = generator.integers(240, size=(5, 240))
    found = weighted_agreement(scores, ranks, np.stack([np.bincount(d, minlength=240) for d in drawn]))
    for resample, neurons in enumerate(drawn):
        for a in range(3):
            for b in range(3):
                expected = spearmanr(scores[a, neurons], scores[b, neurons]).statistic
                assert found[resample, 0, a, b] == pytest.approx(expected)
                tops = [top(scores[m], neurons.tolist(), 5) for m in (a, b)]
                both = sum(min(tops[0].count(n), tops[1].count(n)) for n in set(tops[0]))
                assert found[resample, 1, a, b] == both / max(1, *map(len, tops))


def test_a_constant_map_has_no_correlation() -> None:
    scores = np.stack([np.arange(10.0), np.zeros(10)])
    found = weighted_agreement(scores, np.stack([np.arange(10)[::-1], np.arange(10)]), np.ones((1, 10), dtype=int))
    assert np.isnan(found[0, 0, 0, 1]) and found[0, 0, 0, 0] == 1


def test_pairs_agree_with_the_reference_table(stored_atlas: Path) -> None:
    """Two concepts: the same means as `agreement` gives in SQL."""
    atlas = Atlas.open(stored_atlas)
    rows = atlas.agreement(pairs=True, source="text").to_pylist()
    assert len(rows) == 6 + 10  # of four methods with a contrast, and of five
    reference = {(r["method"], r["reduce"]): r for r in atlas.agreement("ablation", source="text").to_pylist()}
    for row in rows:
        assert row["interval"] == "concepts" and row["concepts"] == 2
        assert row["correlation_low"] is None and row["overlap_high"] is None  # of two concepts
        if row["method"] == "ablation":
            expected = reference[row["other"], row["reduce"]]
            assert row["correlation"] == pytest.approx(expected["correlation"])
            assert row["overlap"] == pytest.approx(expected["overlap"])


def test_one_concept_resamples_neurons(stored_atlas: Path) -> None:
    atlas = Atlas.open(stored_atlas)
    asked: dict[str, Any] = {"concept": "dog", "source": "text"}
    rows = atlas.agreement(pairs=True, **asked).to_pylist()
    assert {r["interval"] for r in rows} == {"neurons"} and {r["concepts"] for r in rows} == {1}
    assert all(r["correlation_low"] <= r["correlation"] <= r["correlation_high"] for r in rows)
    assert atlas.agreement(pairs=True, **asked).to_pylist() == rows
    assert atlas.agreement(pairs=True, **asked, seed=1).to_pylist() != rows
    control = [r for r in rows if "random" in (r["method"], r["other"])]
    assert len(control) == 4 and all(r["correlation_low"] < 0.1 and r["correlation_high"] > -0.1 for r in control)


def test_maps_of_different_neurons_are_compared_among_the_common_ones(
    empty: Path, make_run: Callable[..., Any], store_maps: Callable[..., None]
) -> None:
    generator = np.random.default_rng(0)
    whole = {(layer, n): float(generator.random()) for layer in (0, 1) for n in range(100)}
    part = {key: value + generator.random() for key, value in whole.items() if key[0] == 1}
    other = {key: -value for key, value in whole.items()}
    store_maps(empty, make_run(0), {"a": {"dog": whole}, "b.part": {"dog": part}, "c": {"dog": other}})
    rows = {(r["method"], r["other"]): r for r in Atlas.open(empty).agreement(pairs=True).to_pylist()}
    expected = spearmanr([whole[key] for key in part], [part[key] for key in part]).statistic
    assert rows["a", "b.part"]["correlation"] == pytest.approx(expected)
    assert rows["a", "c"]["correlation"] == pytest.approx(-1)
    assert rows["a", "c"]["overlap"] == 0


def test_methods_of_two_runs_that_were_asked_the_same_are_compared(
    empty: Path, make_run: Callable[..., Any], store_maps: Callable[..., None]
) -> None:
    """And no others: of other examples, or where a run does not say."""
    scores = {(0, n): float(n) for n in range(12)}
    for seed, (method, examples) in enumerate({"a": "x", "b": "x", "c": "y", "d": None, "e": None}.items()):
        run = make_run(seed)
        run.head["run"]["job"] |= {"examples": examples, "methods": {method: {}}} if examples else {}
        store_maps(empty, run, {method: {"dog": scores}})
    atlas = Atlas.open(empty)
    assert [(r["method"], r["other"]) for r in atlas.agreement(pairs=True).to_pylist()] == [("a", "b")]
    assert [r["method"] for r in atlas.agreement("a").to_pylist()] == ["b"]
