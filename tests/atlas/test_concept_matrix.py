"""Neurons that concepts and sets share, against loops over them; and how evenly drawn ones lie over the layers."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import false_discovery_control, hypergeom

from atlas import Atlas
from atlas.errors import UsageError
from atlas.stats.concept_pairs import clustered
from atlas.stats.even_spread import even_band
from atlas.stats.intervals import of_values
from atlas.stats.membership import covariates
from atlas.stats.overlap_null import matched_statistics
from atlas.stats.set_overlap import intersections

LAYERS, WIDTH, TOP = 2, 100, 20
NAMES = ("dog", "cat", "bird", "car", "bus")
ALIKE = {"dog": 0, "cat": 0, "bird": 0, "car": 1, "bus": 1}
"""Concepts that have a planted part in common."""


def planted(name: str, seed: int) -> dict[tuple[int, int], float]:
    """Scores of every neuron: noise, and a part that concepts of a kind have in common."""
    noise = np.random.default_rng(seed).normal(size=(LAYERS, WIDTH))
    noise += 2 * np.random.default_rng(100 + ALIKE[name]).normal(size=(LAYERS, WIDTH))
    return {(layer, n): float(noise[layer, n]) for layer in range(LAYERS) for n in range(WIDTH)}


@pytest.fixture
def five(empty: Path, make_run: Callable[..., Any], store_maps: Callable[..., None]) -> Path:
    run = make_run(0, concepts=NAMES, layers=LAYERS, width=WIDTH)
    maps = {name: planted(name, seed) for seed, name in enumerate(NAMES)}
    store_maps(empty, run, {"contribution": maps, "activation": {name: planted(name, 50) for name in NAMES}})
    return empty


def best(name: str) -> set[tuple[int, int]]:
    scores = planted(name, NAMES.index(name))
    return set(sorted(scores, key=lambda at: (-scores[at], at))[:TOP])


def test_every_two_concepts_are_compared_as_a_loop_does(five: Path) -> None:
    answer = Atlas.open(five).concept_matrix(method="contribution", top=TOP)
    rows = {(row["concept"], row["other"]): row for row in answer.to_pylist()}
    assert len(rows) == 10 and answer.facts["top"] == TOP
    known = covariates(np.repeat(np.arange(LAYERS), WIDTH), ())
    total, p = LAYERS * WIDTH, {}
    for pair in combinations(sorted(NAMES), 2):
        first, second = (best(name) for name in pair)
        shared, row = len(first & second), rows[pair]
        p[pair] = hypergeom.sf(shared - 1, total, TOP, TOP)
        assert row["shared"] == shared and row["p"] == pytest.approx(p[pair])
        assert row["expected"] == TOP * TOP / total and row["lift"] == shared / row["expected"]
        members = [np.array([(y, n) in of for y in range(LAYERS) for n in range(WIDTH)]) for of in (first, second)]
        matched = matched_statistics(*members, known, shared)
        assert row["p_matched"] == pytest.approx(matched["p_value"])
        assert row["lift_matched"] == pytest.approx(matched["lift"])
    expected = false_discovery_control([p[pair] for pair in rows])
    assert [row["q"] for row in rows.values()] == pytest.approx(list(expected))
    shared_counts = [row["shared"] for row in rows.values()]
    assert shared_counts == sorted(shared_counts, reverse=True)


def test_concepts_of_a_kind_stand_side_by_side(five: Path) -> None:
    order = Atlas.open(five).concept_matrix(method="contribution", top=TOP).facts["concepts"]
    kinds = [ALIKE[name] for name in order]
    assert sorted(order) == sorted(NAMES) and kinds in ([0, 0, 0, 1, 1], [1, 1, 0, 0, 0])
    assert clustered(["dog", "cat"], {("dog", "cat"): 3}) == ["dog", "cat"]


def test_some_concepts_are_compared_and_unknown_ones_refused(five: Path) -> None:
    atlas = Atlas.open(five)
    [row] = atlas.concept_matrix(method="contribution", concepts=("dog", "car"), top="10%").to_pylist()
    assert (row["concept"], row["other"]) == ("car", "dog") and row["shared"] == len(best("dog") & best("car"))
    as_text = atlas.concept_matrix(method="contribution", concepts="dog, car", top="10%")
    assert as_text.to_pylist() == [row]
    with pytest.raises(UsageError, match="giraffe"):
        atlas.concept_matrix(concepts=("dog", "giraffe"))
    with pytest.raises(UsageError, match="two concepts or more"):
        atlas.concept_matrix(concepts=("dog",))
    with pytest.raises(UsageError, match="give concepts='dog,cat' instead"):
        atlas.concept_matrix(concept="dog")


def test_more_than_all_neurons_are_all_and_more_than_are_kept_are_refused(five: Path) -> None:
    atlas = Atlas.open(five)
    everything = atlas.concept_matrix(top=5 * LAYERS * WIDTH)
    assert everything.facts["top"] == LAYERS * WIDTH
    assert everything.table.equals(atlas.concept_matrix(top="100%").table)
    assert atlas.overlap(concepts=("dog", "cat"), top=5000).provenance["selection"] == {"top": LAYERS * WIDTH}
    import duckdb

    with duckdb.connect(str(five / "atlas.duckdb")) as connection:  # as if ingested with --keep top:30
        connection.execute("UPDATE maps SET kept = 30")
    for ask in (lambda top: atlas.concept_matrix(top=top), lambda top: atlas.overlap(concepts=NAMES, top=top)):
        assert len(ask(30))
        with pytest.raises(UsageError, match="by contribution has only its best 30 of 200 neurons; use a smaller top"):
            ask(31)


def test_sets_are_counted_by_exactly_which_have_a_neuron() -> None:
    sets = {"a": set(range(10)), "b": set(range(5, 20)), "c": {7, 8, 30}}
    rows = intersections(sets, 50).to_pylist()
    for row in rows:
        others = set(sets) - set(row["sets"])
        exactly = set.intersection(*(sets[name] for name in row["sets"])) - set().union(*(sets[n] for n in others))
        assert row["neurons"] == len(exactly) and row["degree"] == len(row["sets"])
        even = 50.0
        for name, of in sets.items():
            even *= len(of) / 50 if name in row["sets"] else 1 - len(of) / 50
        assert row["expected"] == pytest.approx(even) and row["lift"] == pytest.approx(len(exactly) / even)
    assert [(row["sets"], row["neurons"]) for row in rows] == [
        (["b"], 10),
        (["a"], 5),
        (["a", "b"], 3),
        (["a", "b", "c"], 2),
        (["c"], 1),
    ]


def test_the_best_of_several_concepts_and_saved_sets_overlap(five: Path) -> None:
    atlas = Atlas.open(five)
    answer = atlas.overlap(concepts=("dog", "cat", "car"), method="contribution", top=TOP)
    assert answer.facts == {"sizes": {"dog": TOP, "cat": TOP, "car": TOP}, "total": LAYERS * WIDTH}
    by_sets = {tuple(row["sets"]): row["neurons"] for row in answer.to_pylist()}
    assert by_sets["dog", "cat"] == len((best("dog") & best("cat")) - best("car"))
    assert sum(by_sets.values()) == len(best("dog") | best("cat") | best("car"))
    for name in ("dog", "cat"):
        atlas.save_selection(name, atlas.query(name, "contribution", top=TOP))
    saved = {tuple(row["sets"]): row["neurons"] for row in atlas.overlap(of=("dog", "cat", "dog & cat")).to_pylist()}
    assert saved["dog", "cat", "dog & cat"] == len(best("dog") & best("cat"))
    assert set(saved) == {("dog",), ("cat",), ("dog", "cat", "dog & cat")}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "give several of one kind"),
        ({"concepts": ("dog", "cat"), "of": ("dog", "cat")}, "give several of one kind"),
        ({"concepts": ("dog",)}, "from 2 to 8 different sets, not 1"),
        ({"concepts": ("dog", "dog")}, "from 2 to 8 different sets, not 2: dog, dog"),
        ({"methods": ("contribution", "activation")}, "give the concept whose methods are compared"),
        ({"methods": ("contribution", "activation"), "method": "activation", "concept": "dog"}, "both say what method"),
    ],
)
def test_what_is_no_comparison_of_sets_is_refused(five: Path, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Atlas.open(five).overlap(**asked)


@pytest.mark.parametrize("drawn", [0, 1, 7, 40, 150, 200])
@pytest.mark.parametrize(("layers", "width"), [(4, 50), (2, 100), (1, 200)])
def test_the_band_of_even_draws_is_the_hypergeometric_laws(drawn: int, layers: int, width: int) -> None:
    law = hypergeom(layers * width, width, drawn)
    assert even_band(drawn, layers, width) == (law.ppf(0.025), law.ppf(0.975))


def test_layers_have_the_band_of_as_many_drawn_evenly(five: Path) -> None:
    rows = Atlas.open(five).layers("dog", "contribution", top=TOP).to_pylist()
    low, high = even_band(TOP, LAYERS, WIDTH)
    assert [(row["null_low"], row["null_high"]) for row in rows] == [(low, high)] * LAYERS
    assert [row["count"] for row in rows] == [sum(y == layer for y, _ in best("dog")) for layer in range(LAYERS)]


def test_the_correlation_with_a_reference_has_the_interval_of_the_pair(five: Path) -> None:
    atlas = Atlas.open(five)
    [row] = atlas.agreement("contribution").to_pylist()
    [pair] = atlas.agreement(pairs=True).to_pylist()
    assert row["correlation"] == pytest.approx(pair["correlation"])
    ends = ("correlation_low", "correlation_high")
    assert [row[name] for name in ends] == pytest.approx([pair[name] for name in ends])
    [ranked] = atlas.leaderboard("contribution").to_pylist()
    assert [ranked[name] for name in ends] == pytest.approx([row[name] for name in ends])
    assert row["correlation_low"] < row["correlation"] < row["correlation_high"] and of_values([1.0, 2.0]).low is None
