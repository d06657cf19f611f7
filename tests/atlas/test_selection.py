"""Selection rules, votes and layer distributions against plain loops over the scores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import median_abs_deviation

from atlas import Atlas
from atlas.errors import UsageError
from atlas.neurons import Neuron
from atlas.query.amount import count_of, size
from atlas.query.neuron_set import NeuronSet, layer_distribution
from atlas.query.selection_rules import RULES, Rule
from atlas.store import create

LAYERS, WIDTH = 3, 60
Scores = dict[tuple[int, int], float]


def drawn(seed: int, levels: int = 0, layers: tuple[int, ...] = (0, 1, 2)) -> Scores:
    """Scores around zero; a few levels make ties."""
    generator = np.random.default_rng(seed)
    scores = {}
    for layer in layers:
        for n in range(WIDTH):
            value = generator.integers(-levels, levels + 1) if levels else np.float32(generator.normal())
            scores[layer, n] = float(value)
    return scores


DOG, CAT, PARTIAL = drawn(1), drawn(2), drawn(4, layers=(0, 2))
MAPS = {
    "contribution": {"dog": DOG, "cat": CAT},
    "activation": {"dog": drawn(3, levels=4), "cat": drawn(5, levels=4)},
    "two_stage.stage1": {"dog": PARTIAL},
    "random": {"dog": drawn(6), "cat": drawn(7)},
    "constant": {"dog": dict.fromkeys(DOG, 1.0)},
    "negative": {"dog": {at: -abs(value) - 1 for at, value in DOG.items()}},
    "sparse": {"dog": {at: max(0.0, value - 1) for at, value in DOG.items()}},
}


@pytest.fixture(scope="module")
def atlas(
    tmp_path_factory: pytest.TempPathFactory, make_run: Callable[..., Any], store_maps: Callable[..., None]
) -> Atlas:
    path = tmp_path_factory.mktemp("selection") / "maps.atlas"
    create.init(path)
    store_maps(path, make_run(0, layers=LAYERS, width=WIDTH), MAPS)
    return Atlas.open(path)


def in_order(scores: Scores) -> list[tuple[int, int]]:
    return sorted(scores, key=lambda at: (-scores[at], at))


def by_hand(rule: str, scores: Scores, null: Scores) -> list[tuple[int, int]]:
    """What a rule chooses, best first."""
    name, amount = rule.split(":")[0], float(rule.split(":")[1].split(",")[0])
    ranked = in_order(scores)

    def placed(at: Any) -> bool:
        """Zeros below a positive best are in no top."""
        return scores[at] != 0 or max(scores.values()) <= 0

    if name == "top":
        return [at for at in ranked[: int(amount)] if placed(at)]
    if name == "share":
        return [at for at in ranked[: size(amount / 100, len(ranked))] if placed(at)]
    if name == "per_layer":
        of_layer = {layer: [at for at in ranked if at[0] == layer] for layer in range(LAYERS)}
        return [at for at in ranked if of_layer[at[0]].index(at) < amount and placed(at)]
    if name == "percentile":
        best = [at for i, at in enumerate(ranked) if 100 * (len(ranked) - i) / len(ranked) >= amount]
        return [at for at in best if placed(at)] if amount else best
    if name == "fraction":
        return [at for at in ranked if scores[at] > amount * max(scores.values())]
    if name == "above":
        return [at for at in ranked if scores[at] > np.float32(amount)]
    values = np.array(list(null.values()))
    spread = median_abs_deviation(values, scale="normal")
    if spread == 0:
        spread = np.abs(values - np.median(values)).mean() * np.sqrt(np.pi / 2)
    return [at for at in ranked if (scores[at] - np.median(values)) / spread >= amount]


def addresses(found: Any) -> list[tuple[int, int]]:
    return [(n.layer, n.index) for n in found]


@pytest.mark.parametrize(
    "rule",
    [
        *("top:1", "top:17", "top:9999", "per_layer:1", "per_layer:7", "percentile:0", "percentile:90.5"),
        *(
            "percentile:100",
            "fraction:0.3",
            "fraction:0",
            "fraction:1",
            "share:0.01",
            "share:1.7",
            "share:12.5",
            "share:100",
            "above:0.5",
            "above:-1",
            "above:9",
        ),
        *("z:1.5", "z:-1", "z:0"),
    ],
)
@pytest.mark.parametrize("method", ["contribution", "activation", "two_stage.stage1", "sparse"])
def test_a_rule_chooses_what_the_loops_choose(atlas: Atlas, rule: str, method: str) -> None:
    scores = MAPS[method]["dog"]
    found = atlas.select(rule, "dog", method)
    assert addresses(found) == by_hand(rule, scores, scores)
    assert [row["rank"] for row in found.to_arrow().to_pylist()] == [
        in_order(scores).index(at) + 1 for at in addresses(found)
    ]


def test_a_share_is_the_top_of_so_many_everywhere(atlas: Atlas) -> None:
    neurons = len(DOG)
    count = count_of("5%", neurons)
    names = {"concept": "dog", "method": "contribution"}
    assert addresses(atlas.query(**names, top="5%")) == addresses(atlas.query(**names, top=count))
    assert atlas.layers(**names, top="5%").to_arrow().equals(atlas.layers(**names, top=count).to_arrow())
    shares, counts = (
        atlas.query(concept="dog", methods=("contribution", "activation"), top=top, agree=1) for top in ("5%", count)
    )
    assert addresses(shares) == addresses(counts)
    assert atlas.query(**names, top="5").provenance["selection"]["top"] == 5
    with pytest.raises(UsageError, match="5% of a map is a rule of its own; give select or top"):
        atlas.query(**names, top="5%", select="z:4")
    for wrong in ("0%", "101%", "a few", "nan%"):
        with pytest.raises(UsageError, match="is not a number of neurons, at least 1, or a share of them"):
            atlas.query(**names, top=wrong)


def test_z_against_another_map(atlas: Atlas) -> None:
    found = atlas.select("z:1.2,concept=cat", "dog", "contribution")
    assert addresses(found) == by_hand("z:1.2", DOG, CAT) != by_hand("z:1.2", DOG, DOG)
    said = found.provenance["selection"]
    assert said["rule"] == "z:1.2,concept=cat" and said["null"]["concept"] == "cat"
    assert found.provenance["maps"][0]["concept"] == "dog"


def test_maps_without_anything_to_choose(atlas: Atlas) -> None:
    assert len(atlas.select("fraction:0.3", "dog", "negative")) == 0  # no score is above zero
    assert len(atlas.select("z:0", "dog", "constant")) == 0  # no scale at all
    assert len(atlas.select("top:5", "dog", "constant")) == 5


def test_above_takes_shares_that_exceed_it_and_none_that_equal_it(
    empty: Path, make_run: Callable[..., Any], store_maps: Callable[..., None]
) -> None:
    """Shares of ten prompts, which single precision cannot hold exactly."""
    shares = {(layer, n): (n % 11) / 10 for layer in range(LAYERS) for n in range(WIDTH)}
    store_maps(empty, make_run(0, layers=LAYERS, width=WIDTH), {"knowledge_neurons": {"dog": shares}})
    for tenths in range(11):
        found = Atlas.open(empty).select(f"above:{tenths / 10}", "dog", "knowledge_neurons")
        assert set(addresses(found)) == {(layer, n) for layer, n in shares if n % 11 > tenths}


def test_rules_with_layers_top_and_set_algebra(atlas: Atlas) -> None:
    whole = by_hand("fraction:0.2", DOG, DOG)
    assert addresses(atlas.select("fraction:0.2", "dog", layers=(1, 2))) == [at for at in whole if at[0] > 0]
    assert addresses(atlas.select("fraction:0.2", "dog", top=4)) == whole[:4]
    without = atlas.select("top:50", "dog") - atlas.select("top:50", "cat")
    assert addresses(without) == [at for at in in_order(DOG)[:50] if at not in in_order(CAT)[:50]]
    assert without.provenance["right"]["maps"][0]["concept"] == "cat"
    agreeing = atlas.select("top:5", "dog").to_arrow().to_pylist()
    for row in agreeing:
        others = [m for m in MAPS if m not in ("contribution", "random")]
        at = (row["layer"], row["neuron"])
        assert row["also_found_by"] == sorted(
            m for m in others if at in in_order(MAPS[m]["dog"])[: round(0.02 * LAYERS * WIDTH)]
        )


@pytest.mark.parametrize("rule", ["top:20", "percentile:80", "z:1", "z:1,concept=cat"])
@pytest.mark.parametrize("at_least", [None, 1, 2, 3])
def test_a_vote_counts_the_maps_that_choose_a_neuron(atlas: Atlas, rule: str, at_least: int | None) -> None:
    methods = ["activation", "contribution", "two_stage.stage1" if "concept" not in rule else "random"]
    chosen = {}
    for m in methods:
        null = MAPS[m]["cat"] if "concept" in rule else MAPS[m]["dog"]
        chosen[m] = by_hand(rule, MAPS[m]["dog"], null)
    found = atlas.query("dog", methods=tuple(methods), select=rule, agree=at_least)
    votes = {at: [m for m in methods if at in chosen[m]] for at in DOG}
    needed = at_least or 2
    assert set(addresses(found)) == {at for at, who in votes.items() if len(who) >= needed}
    last = (len(methods) + 1, 100.0)
    for row in found.to_arrow().to_pylist():
        at = (row["layer"], row["neuron"])
        assert row["found_by"] == votes[at] and row["votes"] == len(votes[at])
        ranked = [in_order(MAPS[m]["dog"]) for m in methods]
        assert [row[f"rank_{m}"] for m in methods] == [r.index(at) + 1 if at in r else None for r in ranked]
        percentile = np.mean([100 * (len(r) - r.index(at)) / len(r) if at in r else 0 for r in ranked])
        assert row["percentile"] == pytest.approx(percentile)
        assert (row["votes"], row["percentile"]) <= last  # most votes first, then the mean percentile
        last = (row["votes"], row["percentile"] + 1e-9)
    assert found.provenance["selection"] == {"rule": rule, "agree": needed, "of": methods}
    assert [m["method"] for m in found.provenance["maps"]] == methods


def test_the_concepts_of_a_supercategory_vote(atlas: Atlas) -> None:
    found = atlas.query(supercategory="animal", select="top:60")
    both = set(in_order(DOG)[:60]) & set(in_order(CAT)[:60])
    assert set(addresses(found)) == both
    assert found.to_arrow().to_pylist()[0]["found_by"] == ["cat", "dog"]
    assert "agree=2 (more than half of 2)" in found.provenance["assumed"]
    found = atlas.query(supercategory="animal", method="two_stage.stage1")
    assert found.provenance["selection"]["of"] == ["dog"]  # the only one that has such a map


def test_parts_of_methods_maps_of_no_concept_and_token_roles(
    empty: Path, make_run: Callable[..., Any], store_maps: Callable[..., None]
) -> None:
    found = {"miner.prob": {None: DOG}, "miner.max": {None: CAT}, "lape": {None: drawn(9)}}
    store_maps(empty, make_run(0, layers=LAYERS, width=WIDTH), found, source="special")
    atlas = Atlas.open(empty)
    special = atlas.select("z:1", "*", "miner.prob", source="special")
    assert addresses(special) == by_hand("z:1", DOG, DOG)
    assert special.provenance["maps"][0] | {"concept": "*", "source": "special"} == special.provenance["maps"][0]
    assert {m for row in special.to_arrow().to_pylist() for m in row["also_found_by"]} == {
        "lape"
    }  # no part of its own method
    voted = atlas.query("*", methods=("miner.prob", "miner.max"), select="top:60")
    assert set(addresses(voted)) == set(in_order(DOG)[:60]) & set(in_order(CAT)[:60])
    assert len(atlas.layers(of=special)) == LAYERS
    with pytest.raises(UsageError, match="no stored supercategory called 'animal'"):
        atlas.query(supercategory="animal")
    with pytest.raises(UsageError, match="did you mean 'miner.prob'"):
        atlas.select("top:3", "*", "miner.prop")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"concept": "dog", "methods": ("contribution",)}, "two or more different methods"),
        ({"concept": "dog", "methods": ("contribution", "contribution")}, "two or more different methods"),
        ({"methods": ("contribution", "activation")}, "one concept"),
        ({"concept": "dog", "methods": ("contribution", "activaton")}, "did you mean 'activation'"),
        (
            {"concept": "cat", "methods": ("contribution", "sparse")},
            "method 'sparse' has no map of concept 'cat', only of: 'dog'",
        ),
        ({"concept": "dog", "methods": ("contribution", "random"), "agree": 3}, "1 to 2 here, not 3"),
        ({"supercategory": "plant"}, "no stored supercategory called 'plant'; there are: animal"),
    ],
)
def test_votes_that_cannot_be(atlas: Atlas, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        atlas.query(**asked)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tops:3", "no selection rule called 'tops'; did you mean 'top'"),
        ("top", "needs a whole number, at least 1"),
        ("top:0", "at least 1"),
        ("per_layer:1.5", "needs a whole number"),
        ("percentile:101", "0 to 100"),
        ("fraction:x", "0 to 1"),
        ("fraction:nan", "0 to 1"),
        ("z:", "for example 4"),
        ("above:x", "needs a number, for example 0.5: a score above this"),
        ("above:inf", "for example 0.5"),
        ("above:0.5,concept=cat", "only z is measured against another map"),
        ("top:5,concept=cat", "only z is measured against another map; write top:5"),
        ("z:4,cat", "'cat' does not name a map; write select z:4,concept=cat"),
        ("z:4,layer=3", "'layer=3' does not name a map"),
    ],
)
def test_what_is_no_rule(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Rule.parse(text)


@pytest.mark.parametrize(
    "text", [*(f"{name}:1" for name in RULES), "top:1234567", "z:1.23456789", "z:2.5,concept=cat,source=text"]
)
def test_a_rule_reads_back(text: str) -> None:
    assert str(Rule.parse(text)) == text and Rule.parse(str(Rule.parse(text))) == Rule.parse(text)


def test_layers_are_counted_with_their_share_and_enrichment(atlas: Atlas) -> None:
    found = atlas.select("top:30", "dog")
    rows = atlas.layers(of=found).to_pylist()
    counts = [sum(n.layer == layer for n in found) for layer in range(LAYERS)]
    assert [r["count"] for r in rows] == counts and [r["layer"] for r in rows] == [0, 1, 2]
    assert [r["share"] for r in rows] == pytest.approx([c / 30 for c in counts])
    assert [r["cumulative"] for r in rows] == pytest.approx(np.cumsum(counts) / 30)
    assert [r["enrichment"] for r in rows] == pytest.approx([c / 10 for c in counts])
    both = found & atlas.select("top:30", "dog", "activation")
    assert sum(r["count"] for r in atlas.layers(of=both).to_pylist()) == len(both)
    with pytest.raises(UsageError, match="does not have the model of these neurons"):
        atlas.layers(of=NeuronSet(found.to_arrow(), {}))


def test_layers_of_no_neuron_and_of_another_component() -> None:
    assert [r["share"] for r in layer_distribution([], 2).to_pylist()] == [None, None]
    rows = layer_distribution([Neuron("vision", 2, 5), Neuron("language", 0, 1)], 2).to_pylist()
    assert [(r["component"], r["layer"], r["count"]) for r in rows] == [
        *(("language", 0, 1), ("language", 1, 0)),
        *(("vision", 0, 0), ("vision", 1, 0), ("vision", 2, 1)),
    ]
