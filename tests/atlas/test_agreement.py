"""`agreement` against SciPy: ties, partial maps, constant maps, and which maps are compared at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from scipy.stats import rankdata, spearmanr

from atlas.api.atlas import Atlas
from atlas.errors import UsageError
from atlas.query import amount
from atlas.query.amount import count_of

LAYERS, WIDTH = 2, 100
Scores = dict[tuple[int, int], float]
MakeRun = Callable[..., Any]
StoreMaps = Callable[..., None]


def drawn(seed: int, levels: int, layers: tuple[int, ...] = (0, 1)) -> Scores:
    """A score for each neuron of these layers; few levels make many ties."""
    generator = np.random.default_rng(seed)
    return {(layer, neuron): float(generator.integers(levels)) for layer in layers for neuron in range(WIDTH)}


def asked(path: Path) -> dict[str, dict[str, Any]]:
    return {row["method"]: row for row in Atlas.open(path).agreement("ablation").to_pylist()}


def expected(theirs: Scores, mine: Scores) -> tuple[float, float]:
    """Spearman's correlation, and the share of the reference's top 2 %, both among the common neurons."""
    common = sorted(theirs.keys() & mine.keys())
    a, b = [theirs[n] for n in common], [mine[n] for n in common]
    tops = [set(sorted(common, key=lambda n: (-s[n], n))[: max(1, round(0.02 * len(common)))]) for s in (theirs, mine)]
    return float(spearmanr(a, b).statistic), len(tops[0] & tops[1]) / len(tops[0])


@pytest.mark.parametrize("levels", [1_000_000, 12])
@pytest.mark.parametrize(("reference_layers", "layers"), [((0, 1), (0, 1)), ((1,), (0, 1)), ((0, 1), (1,))])
def test_correlation_and_overlap_are_scipys_among_the_common_neurons(
    empty: Path,
    make_run: MakeRun,
    store_maps: StoreMaps,
    levels: int,
    reference_layers: tuple[int, ...],
    layers: tuple[int, ...],
) -> None:
    theirs = drawn(1, levels, reference_layers)
    noise = drawn(2, levels, layers)
    mine = {address: value + 2 * theirs.get(address, 0.0) for address, value in noise.items()}
    store_maps(empty, make_run(0), {"ablation": {"dog": theirs}, "contribution": {"dog": mine}})
    row = asked(empty)["contribution"]
    correlation, overlap = expected(theirs, mine)
    assert 0.5 < correlation < 0.99  # neither nothing nor everything
    assert row["correlation"] == pytest.approx(correlation, abs=1e-9)
    assert row["overlap"] == pytest.approx(overlap)
    assert row["maps"] == 1


def test_the_top_is_of_the_common_neurons(empty: Path, make_run: MakeRun, store_maps: StoreMaps) -> None:
    """The method's best neurons lie in the layer that the reference did not score."""
    theirs = {(1, n): float(WIDTH - n) for n in range(WIDTH)}
    mine = theirs | {(0, n): 1000.0 + n for n in range(WIDTH)}
    store_maps(empty, make_run(0), {"ablation": {"dog": theirs}, "contribution": {"dog": mine}})
    row = asked(empty)["contribution"]
    assert row["overlap"] == 1
    assert row["correlation"] == pytest.approx(1)


def test_a_constant_map_is_left_out_of_the_mean_and_sorted_last(
    empty: Path, make_run: MakeRun, store_maps: StoreMaps
) -> None:
    reference = {"dog": drawn(1, 1000), "cat": drawn(2, 1000)}
    constant = dict.fromkeys(reference["dog"], 0.0)
    found = {
        "ablation": reference,
        "activation": {"dog": constant, "cat": constant},
        "contribution": {"dog": reference["dog"], "cat": constant},
        "random": {"dog": drawn(3, 1000), "cat": drawn(4, 1000)},
    }
    store_maps(empty, make_run(0), found)
    rows = Atlas.open(empty).agreement("ablation").to_pylist()
    assert [row["method"] for row in rows] == ["contribution", "random", "activation"]
    assert rows[0]["correlation"] == pytest.approx(1)
    assert rows[0]["maps"] == 2
    assert rows[2]["correlation"] is None
    json.dumps(rows, allow_nan=False)


def test_only_maps_of_one_run_are_compared(empty: Path, make_run: MakeRun, store_maps: StoreMaps) -> None:
    theirs = drawn(1, 1000)
    store_maps(empty, make_run(1), {"ablation": {"dog": theirs}, "contribution": {"dog": theirs}})
    turned = {address: -value for address, value in theirs.items()}
    store_maps(
        empty, make_run(2), {"contribution": {"dog": turned}, "activation": {"dog": theirs}}
    )  # newer, no ablation
    rows = asked(empty)
    assert set(rows) == {"contribution"}
    assert rows["contribution"]["correlation"] == pytest.approx(1)
    store_maps(empty, make_run(3), {"ablation": {"dog": theirs}, "contribution": {"dog": turned}})
    ranks = [rankdata([s[n] for n in sorted(s)]) for s in (theirs, turned)]
    assert asked(empty)["contribution"]["correlation"] == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert asked(empty)["contribution"]["maps"] == 1  # the newest pair alone


def test_a_dataset_that_has_something_to_compare_is_taken(
    empty: Path, make_run: MakeRun, store_maps: StoreMaps
) -> None:
    """The newest dataset has maps of one method alone."""
    theirs = drawn(1, 1000)
    turned = {address: -value for address, value in theirs.items()}
    for seed, name in ((1, "old"), (2, "scenes")):
        run = make_run(seed)
        run.head["dataset"]["name"] = name
        store_maps(empty, run, {"ablation": {"dog": theirs}, "contribution": {"dog": theirs if seed == 1 else turned}})
    run = make_run(3)
    run.head["dataset"]["name"] = "newest"
    store_maps(empty, run, {"contribution": {"dog": theirs}})
    atlas = Atlas.open(empty)
    for found in (atlas.agreement(), atlas.agreement(pairs=True)):
        (row,) = found.to_pylist()
        assert row["correlation"] == pytest.approx(-1)  # of scenes, and of no mean with old
        assert found.defaults == ("dataset=scenes (also stored: newest, old)",)
    for ask in (atlas.agreement, partial(atlas.agreement, pairs=True)):
        assert ask(dataset="old")["correlation"].to_pylist() == [pytest.approx(1)]
        with pytest.raises(UsageError, match="no map of another method|no run has maps of two methods"):
            ask(dataset="newest")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"reference": "ablaton"}, "no stored method called 'ablaton'; did you mean 'ablation'"),
        ({"concept": "zebra"}, "no stored concept called 'zebra'"),
        ({"reference": "random", "concept": "dog"}, "method 'random' has no map of concept 'dog', only of: 'cat'"),
        ({"source": "x"}, "no stored source called 'x'; there are: image"),
        ({"dataset": "coco"}, "no stored dataset called 'coco'; there are: scenes"),
    ],
)
def test_names_that_no_map_has(
    empty: Path, make_run: MakeRun, store_maps: StoreMaps, asked: dict[str, Any], message: str
) -> None:
    scores = drawn(1, 1000)
    store_maps(empty, make_run(0), {"ablation": {"dog": scores}, "random": {"cat": scores}})
    with pytest.raises(UsageError, match=message):
        Atlas.open(empty).agreement(**asked)
    if "reference" not in asked:
        with pytest.raises(UsageError, match=message):
            Atlas.open(empty).agreement(pairs=True, **asked)


def test_a_share_of_the_neurons_is_one_number_everywhere() -> None:
    counts = range(1, 3000)
    for share in (0.01, 0.02, 0.005):
        sql = f"SELECT {amount.size_sql('n', '$share::DOUBLE')} FROM (SELECT unnest($counts) AS n)"
        found = duckdb.execute(sql, {"share": share, "counts": list(counts)}).fetchall()
        assert [int(n) for (n,) in found] == [amount.size(share, n) for n in counts]
        assert [count_of(f"{100 * share:g}%", n) for n in counts] == [amount.size(share, n) for n in counts]
    assert [amount.size(0.02, n) for n in (3, 2000, 2030, 2048)] == [1, 40, 41, 41]
