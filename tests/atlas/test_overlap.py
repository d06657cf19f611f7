"""Shared and only, over sources and targets, one concept and several, against loops over the scores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import false_discovery_control, hypergeom

from atlas import Atlas
from atlas.errors import UsageError
from atlas.query.answer import Answer
from atlas.stats.membership import covariates
from atlas.stats.overlap_null import matched_statistics, suffixed
from atlas.store import create

LAYERS, WIDTH, TOP = 3, 100, 30
Scores = dict[tuple[int, int], float]
EVERY = [(layer, n) for layer in range(LAYERS) for n in range(WIDTH)]


def drawn(seed: int, common: Scores | None = None) -> Scores:
    generator = np.random.default_rng(seed)
    return {at: float(np.float32(generator.normal() + (common[at] if common else 0))) for at in EVERY}


MEANS = {"image": drawn(10), "text": drawn(11)}
CONCEPTS = {"dog": drawn(1), "cat": drawn(2), "cow": drawn(3)}
SCORES = {
    source: {c: drawn(10 * i + j, common) for i, (c, common) in enumerate(CONCEPTS.items())}
    for j, source in ((4, "image"), (5, "text"))
}


@pytest.fixture(scope="module")
def atlas(
    tmp_path_factory: pytest.TempPathFactory, make_run: Callable[..., Any], store_maps: Callable[..., None]
) -> Atlas:
    """contribution of three concepts and two sources (one of them for text alone), mean activations, two targets."""
    path = tmp_path_factory.mktemp("overlap") / "maps.atlas"
    create.init(path)
    for seed, source in enumerate(("image", "text")):
        run = make_run(seed, concepts=("dog", "cat", "cow"), layers=LAYERS, width=WIDTH)
        maps = {c: s for c, s in SCORES[source].items() if c != "cow" or source == "text"}
        store_maps(path, run, {"contribution": maps, "activation": {None: MEANS[source]}}, source=source)
    run = make_run(3, concepts=("dog", "cat", "cow"), layers=LAYERS, width=WIDTH)
    store_maps(path, run, {"contribution": {"dog": SCORES["text"]["dog"]}}, source="image", target="image")
    return Atlas.open(path)


def top(scores: Scores) -> list[tuple[int, int]]:
    return sorted(scores, key=lambda at: (-scores[at], at))[:TOP]


def matched(
    first: list[tuple[int, int]], second: list[tuple[int, int]], means: list[Scores], *, only: bool = False
) -> dict[str, float | None]:
    """The matched null, of arrays that are put together here; the null itself is tested in test_nulls."""
    sets = [np.array([at in chosen for at in EVERY]) for chosen in (set(first), set(second))]
    known = covariates(np.array([at[0] for at in EVERY]), [np.array([abs(s[at]) for at in EVERY]) for s in means])
    return matched_statistics(sets[0], sets[1], known, len(set(first) & set(second)), only=only)


def numbers(answer: Answer) -> dict[str, float]:
    return {name: value for name, value in answer.facts.items() if isinstance(value, int | float)}


def test_shared_over_sources_and_only_in_either(atlas: Atlas) -> None:
    image, text = top(SCORES["image"]["dog"]), top(SCORES["text"]["dog"])
    both = set(image) & set(text)
    found = atlas.shared("dog", top=TOP)
    assert found.facts["between"] == ["image", "text"] and found.facts["matched"] == "layer and |mean activation|"
    assert {(n.layer, n.index) for n in found.neurons} == both
    s = found.facts
    assert (s["shared"], s["top"]) == (len(both), TOP)
    assert s["expected"] == pytest.approx(TOP * TOP / 300) and s["lift"] == pytest.approx(len(both) / 3)
    assert s["p"] == pytest.approx(hypergeom(300, TOP, TOP).sf(len(both) - 1))
    both_means = [MEANS["image"], MEANS["text"]]
    expected = matched(image, text, both_means)
    assert {name: s[suffixed(f"matched_{name}")] for name in expected} == pytest.approx(expected)
    swapped = atlas.shared("dog", sources=("text", "image"), top=TOP)
    assert numbers(swapped) == pytest.approx(numbers(found), rel=1e-5)
    ranks = {n: (r["rank_image"], r["rank_text"]) for n, r in zip(found, found.to_pylist(), strict=True)}
    for neuron, row in zip(swapped, swapped.to_pylist(), strict=True):
        assert (row["rank_image"], row["rank_text"]) == ranks[neuron]
    assert swapped.table.column_names[3:7] == ["rank_text", "rank_image", "score_text", "score_image"]
    for sources, mine, other in ((("image", "text"), image, text), (("text", "image"), text, image)):
        alone = atlas.only("dog", sources=sources, top=TOP)
        assert [(n.layer, n.index) for n in alone.neurons] == [at for at in mine if at not in other]
        assert alone.facts["only"] == TOP - len(both)
        assert alone.facts["p"] == pytest.approx(hypergeom(300, TOP, TOP).cdf(len(both)))
        expected = matched(mine, other, both_means, only=True)
        assert {name: alone.facts[suffixed(f"matched_{name}")] for name in expected} == pytest.approx(
            expected, rel=1e-5
        )
        every = sorted(SCORES[sources[1]]["dog"].items(), key=lambda item: (-item[1], item[0]))
        places = [at for at, _ in every]
        for neuron, row in zip(alone, alone.to_pylist(), strict=True):
            at = (neuron.layer, neuron.index)
            assert [row[f"rank_{s}"] for s in sources] == [mine.index(at) + 1, places.index(at) + 1]


def test_other_concepts_are_the_third_null(atlas: Atlas) -> None:
    """The dog's image with the cat's and the cow's text, and its text with the cat's image: the cow's has no map."""
    tops = {(s, c): set(top(SCORES[s][c])) for s in SCORES for c in CONCEPTS}
    pairs = [("dog", "cat"), ("dog", "cow"), ("cat", "dog")]
    others = [len(tops["image", a] & tops["text", b]) for a, b in pairs]
    s = atlas.shared("dog", top=TOP).facts
    assert s["pairs_mismatched"] == 3 and s["expected_mismatched"] == pytest.approx(np.mean(others))
    mine = len(tops["image", "dog"] & tops["text", "dog"])
    assert s["p_mismatched"] == pytest.approx((1 + sum(o >= mine for o in others)) / 4)
    assert atlas.shared("dog", top=TOP).facts["verdict"] == "cannot tell from 1 other concept (10 are needed)"


def test_shared_over_targets(atlas: Atlas) -> None:
    found = atlas.shared("dog", side="target", sources=("image",), top=TOP)
    to_image, to_text = top(SCORES["text"]["dog"]), top(SCORES["image"]["dog"])
    assert {(n.layer, n.index) for n in found.neurons} == set(to_image) & set(to_text)
    expected = matched(to_image, to_text, [MEANS["image"]])  # of the one source
    assert found.facts["expected_matched"] == pytest.approx(expected["expected"])
    assert [m["target"] for m in found.provenance["maps"]] == ["image", "text"]
    named = atlas.shared("dog", sources=("image",), targets=("image", "text"), top=TOP)
    assert list(named.neurons) == list(found.neurons) and numbers(named) == numbers(found)


def test_over_several_concepts_with_q_values(atlas: Atlas) -> None:
    found = atlas.shared(concepts="all", top=TOP)
    assert found.facts["left_out"] == ["cow"]  # its image has no map
    rows = {r["concept"]: r for r in found.to_pylist()}
    assert list(rows) == sorted(rows, key=lambda c: rows[c]["p"])
    for concept in ("dog", "cat"):
        alone = numbers(atlas.shared(concept, top=TOP))
        assert {name: rows[concept][name] for name in alone} == pytest.approx(alone)
    for name in ("", "_matched", "_mismatched"):
        p = [rows[c][f"p{name}"] for c in ("cat", "dog")]
        assert [rows[c][f"q{name}"] for c in ("cat", "dog")] == pytest.approx(list(false_discovery_control(p)))
    only = atlas.only(concepts=["dog"], top=TOP).to_pylist()
    assert only[0]["only"] == TOP - rows["dog"]["shared"] and len(only) == 1
    with pytest.raises(UsageError, match="no stored concept called 'dgo'"):
        atlas.shared(concepts=["dgo"])
    assert len(atlas.shared(supercategory="animal")) == 2


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"sources": ("image", "image")}, "two different sources"),
        ({"sources": ("image",)}, "two different sources"),
        ({"side": "target", "targets": ("text",)}, "two different targets"),
        ({"side": "target", "sources": ("image", "text")}, "give one of the sources; side='source' compares two"),
        ({"side": "left"}, "source or target, not 'left'"),
        ({"sources": ("image", "audio")}, "no stored source called 'audio'"),
        ({"side": "target", "sources": ("text",)}, "no stored target called 'image'"),
    ],
)
def test_what_cannot_be_compared(atlas: Atlas, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        atlas.shared("dog", **asked)


def test_a_concept_that_one_side_lacks(atlas: Atlas) -> None:
    with pytest.raises(UsageError, match="image"):
        atlas.shared("cow")


def store_parts(
    path: Path, make_run: Any, store_maps: Any, parts: dict[str, set[Any]], **more: Any
) -> dict[str, Scores]:
    """Maps of dog that score only some neurons, each source others."""
    kept = {source: {at: SCORES[source]["dog"][at] for at in sorted(part)} for source, part in parts.items()}
    for seed, (source, scores) in enumerate(kept.items()):
        also = {name: {None: values[source]} for name, values in more.items()}
        run = make_run(seed, layers=LAYERS, width=WIDTH)
        store_maps(path, run, {"two_stage": {"dog": scores}, **also}, source=source)
    return kept


def test_chance_draws_from_the_neurons_that_both_maps_score(
    empty: Path, make_run: Callable[..., Any], store_maps: Callable[..., None]
) -> None:
    """Two filters' maps with candidates of their own, most of them in the second layer."""
    generator = np.random.default_rng(0)
    parts = {s: {at for at in EVERY if generator.random() < (0.3, 0.8, 0.4)[at[0]]} for s in ("image", "text")}
    kept = store_parts(empty, make_run, store_maps, parts)
    common = parts["image"] & parts["text"]
    tops = [set(top(kept[source])) for source in ("image", "text")]
    shared, within = len(tops[0] & tops[1]), [len(t & common) for t in tops]
    assert within[0] < TOP and shared
    found = Atlas.open(empty).shared("dog", top=TOP)
    assert found.facts["matched"] == "layer"  # no activation is stored
    s = found.facts
    assert s["shared"] == shared and s["expected"] == pytest.approx(within[0] * within[1] / len(common))
    assert s["p"] == pytest.approx(hypergeom(len(common), *within).sf(shared - 1))
    inside = sorted(common)
    sets = [np.array([at in tops[i] for at in inside]) for i in (0, 1)]
    known = covariates(np.array([at[0] for at in inside]), [])
    expected = matched_statistics(sets[0], sets[1], known, shared)["expected"] or 0
    assert s["expected_matched"] == pytest.approx(expected)
    only = Atlas.open(empty).only("dog", top=TOP).facts
    assert only["only"] == TOP - shared and only["expected"] == pytest.approx(TOP - within[0] * within[1] / len(common))
    assert only["p"] == pytest.approx(hypergeom(len(common), *within).cdf(shared))
    assert only["expected_matched"] == pytest.approx(TOP - expected)


def test_maps_of_some_layers(empty: Path, make_run: Callable[..., Any], store_maps: Callable[..., None]) -> None:
    """Two of three layers, and the mean activation of these alone."""
    part = {at for at in EVERY if at[0] > 0}
    means = {source: {at: MEANS[source][at] for at in part} for source in MEANS}
    kept = store_parts(empty, make_run, store_maps, {"image": part, "text": part}, activation=means)
    found = Atlas.open(empty).shared("dog", "two_stage", top=TOP)
    assert found.facts["matched"] == "layer and |mean activation|"
    assert found.facts["expected"] == pytest.approx(TOP * TOP / 200)
    inside = sorted(part)
    sets = [np.array([at in top(kept[source]) for at in inside]) for source in ("image", "text")]
    loud = [np.array([abs(MEANS[source][at]) for at in inside]) for source in ("image", "text")]
    expected = matched_statistics(sets[0], sets[1], covariates(np.array([at[0] for at in inside]), loud), 0)["expected"]
    assert found.facts["expected_matched"] == pytest.approx(expected)


def test_the_mean_of_absolute_values_is_matched_where_it_is_stored(
    empty: Path, make_run: Callable[..., Any], store_maps: Callable[..., None]
) -> None:
    """Its own map, not the mean's, in which values of both signs cancel."""
    absolute = {source: {at: abs(value) for at, value in drawn(20 + i).items()} for i, source in enumerate(MEANS)}
    for seed, source in enumerate(MEANS):
        run = make_run(2 * seed, concepts=("dog",), layers=LAYERS, width=WIDTH)
        maps = {"contribution": {"dog": SCORES[source]["dog"]}, "activation": {None: MEANS[source]}}
        store_maps(empty, run, maps, source=source)
        run = make_run(2 * seed + 1, concepts=("dog",), layers=LAYERS, width=WIDTH)
        store_maps(empty, run, {"activation": {None: absolute[source]}}, source=source, reduce="mean_abs")
    found = Atlas.open(empty).shared("dog", top=TOP)
    assert found.facts["matched"] == "layer and mean |activation|"
    expected = matched(top(SCORES["image"]["dog"]), top(SCORES["text"]["dog"]), list(absolute.values()))
    assert found.facts["expected_matched"] == pytest.approx(expected["expected"])


@pytest.mark.parametrize("overlap", [12, 5, 0])
def test_maps_whose_every_neuron_is_in_the_top_cannot_surprise(
    empty: Path, make_run: Callable[..., Any], store_maps: Callable[..., None], overlap: int
) -> None:
    parts = {"image": set(EVERY[:12]), "text": set(EVERY[12 - overlap : 24 - overlap])}
    store_parts(empty, make_run, store_maps, parts)
    s = Atlas.open(empty).shared("dog", top=TOP).facts
    assert s["shared"] == overlap
    assert (s["expected"], s["p"]) == (s["expected_matched"], s["p_matched"]) == (overlap, 1)


def test_maps_of_no_concept_have_no_row_a_concept(
    empty: Path, make_run: Callable[..., Any], store_maps: Callable[..., None]
) -> None:
    store_maps(empty, make_run(0, layers=LAYERS, width=WIDTH), {"lape": {None: MEANS["image"]}})
    with pytest.raises(UsageError, match="these maps are over all concepts"):
        Atlas.open(empty).shared(concepts="all")
