"""The questions against plain loops over the stored scores, and set algebra, edits and their refusals."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from atlas import Atlas
from atlas.edits import kinds
from atlas.errors import IntegrityError, StoreUnavailable, UsageError
from atlas.maintain.check import check
from atlas.maintain.rebuild import rebuild
from atlas.neurons import Neuron, parse_layers
from atlas.query.neuron_set import NeuronSet
from atlas.stats.random_neurons import matched_random
from atlas.store import engine


def scores_of(path: Path, concept: str, method: str, source: str, reduce: str) -> dict[Neuron, float]:
    sql = """SELECT s.layer, s.neuron, s.score
             FROM scores s JOIN maps m USING (map_id) JOIN concepts c USING (concept_id)
             WHERE c.name = ? AND m.method = ? AND m.source = ? AND m.reduce = ?"""
    with engine.connect_readonly(path) as connection:
        rows = engine.raw(connection).execute(sql, [concept, method, source, reduce]).fetchall()
    return {Neuron("language", layer, index): score for layer, index, score in rows}


def best(
    path: Path, top: int, method: str, source: str, reduce: str = "contrast", concept: str = "dog"
) -> list[Neuron]:
    scores = scores_of(path, concept, method, source, reduce)
    return sorted(scores, key=lambda n: (-scores[n], n))[:top]


def test_query_gives_the_best_neurons_with_rank_percentile_and_agreement(stored_atlas: Path) -> None:
    found = Atlas.open(stored_atlas).query("dog", "contribution", source="text", top=10)
    assert list(found) == best(stored_atlas, 10, "contribution", "text")
    rows = found.to_arrow().to_pylist()
    assert [r["rank"] for r in rows] == list(range(1, 11))
    assert rows[0]["percentile"] == 100 and rows[9]["percentile"] == pytest.approx(100 * 119 / 128)
    for row, neuron in zip(rows, found, strict=True):
        others = ("ablation", "activation", "gradient_x_activation")  # the top 2 % of 128 neurons are 3
        assert row["also_found_by"] == [m for m in others if neuron in best(stored_atlas, 3, m, "text")]
        assert len(row["tokens"]) == 5
    fewer = Atlas.open(stored_atlas).query("dog", "contribution", source="text", top=4).to_arrow().to_pylist()
    assert [r["also_found_by"] for r in fewer] == [r["also_found_by"] for r in rows[:4]] and any(
        r["also_found_by"] for r in fewer
    )


def test_filters_keep_the_whole_maps_ranks(stored_atlas: Path) -> None:
    atlas = Atlas.open(stored_atlas)
    whole = best(stored_atlas, 128, "contribution", "image", "mean")
    layer = atlas.query("dog", "contribution", source="image", reduce="mean", layers=(1,), top=5)
    assert list(layer) == [n for n in whole if n.layer == 1][:5]
    assert [r["rank"] for r in layer.to_arrow().to_pylist()] == [whole.index(n) + 1 for n in layer]
    high = atlas.select("percentile:95", "dog", "contribution", source="image", reduce="mean")
    assert list(high) == whole[: math.floor(0.05 * 128) + 1]
    with pytest.raises(UsageError, match="no layer 7; .* has layers 0-1"):
        atlas.query("dog", layers=(7,))
    with pytest.raises(UsageError, match="top must be at least 1"):
        atlas.query("dog", top=0)


def test_what_is_left_open_is_filled_in_and_said(stored_atlas: Path) -> None:
    provenance = Atlas.open(stored_atlas).query("dog").provenance
    (chosen,) = provenance["maps"]
    assert (chosen["method"], chosen["source"], chosen["reduce"]) == ("contribution", "image", "contrast")
    assert "source=image (also stored: text)" in provenance["assumed"]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"concept": "dgo"}, "no stored concept called 'dgo'; did you mean 'dog'"),
        ({"concept": "dog", "method": "contribtion"}, "method called 'contribtion'; did you mean 'contribution'"),
        ({"concept": "dog", "source": "audio"}, "source called 'audio'; there are: image, text"),
        ({"concept": "dog", "model": "tiny"}, "no stored model called 'tiny'"),
        ({"concept": "dog", "dataset": "coco"}, "no stored dataset called 'coco'"),
        ({"concept": "dog", "run": "ffff"}, "no run called 'ffff'"),
        ({"concept": "dog", "method": "random", "reduce": "contrast"}, "reduce called 'contrast'; .*mean"),
    ],
)
def test_a_name_that_is_not_there(stored_atlas: Path, asked: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Atlas.open(stored_atlas).query(**asked)


def test_an_empty_and_a_missing_atlas_say_what_to_type(empty_atlas: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="atlas ingest"):
        Atlas.open(empty_atlas).query("dog")
    with pytest.raises(StoreUnavailable, match="atlas init"):
        Atlas.open(tmp_path / "none.atlas")
    assert Atlas.open(tmp_path / "new.atlas", create=True).runs().table.num_rows == 0


def test_a_slice_may_have_no_rows(stored_atlas: Path) -> None:
    found = Atlas(stored_atlas).query("dog", "contribution", source="text", top=3)
    none = found[:0]
    assert len(none) == len(none[:2]) == 0 and none.to_arrow().schema == found.to_arrow().schema
    assert found[1:].neurons == found.neurons[1:]


def test_set_algebra(stored_atlas: Path) -> None:
    atlas = Atlas.open(stored_atlas)
    image = atlas.query("dog", source="image", top=30)
    text = atlas.query("dog", source="text", top=30)
    assert list(image & text) == [n for n in image if n in set(text)]
    assert list(image - text) == [n for n in image if n not in set(text)]
    assert list(image | text) == [*image, *(n for n in text if n not in set(image))]
    assert (image | text).provenance["right"] == text.provenance
    stranger = NeuronSet(text.to_arrow(), {"fingerprint": "other"})
    with pytest.raises(UsageError, match="two models"):
        _ = image & stranger


def test_shared_neurons_and_what_chance_would_give(stored_atlas: Path) -> None:
    atlas = Atlas.open(stored_atlas)
    image, text = (best(stored_atlas, 20, "contribution", s) for s in ("image", "text"))
    found = atlas.shared("dog", "contribution", top=20)
    assert set(found.neurons) == set(image) & set(text)
    for row, neuron in zip(found.to_pylist(), found, strict=True):
        assert [row["rank_image"], row["rank_text"]] == [image.index(neuron) + 1, text.index(neuron) + 1]
    assert found.facts["expected"] == pytest.approx(20 * 20 / 128)
    assert found.facts["shared"] == len(set(image) & set(text))
    assert found.facts["matched"] == "layer and mean |activation|"
    only = atlas.only("dog", "contribution", sources=("text", "image"), top=20)
    assert set(only.neurons) == set(text) - set(image)
    assert only.facts["shared"] == found.facts["shared"]
    with pytest.raises(UsageError, match="two different sources"):
        atlas.shared("dog", sources=("image", "image"))


def test_one_neurons_profile(stored_atlas: Path) -> None:
    profile = Atlas.open(stored_atlas).neuron("1/5")
    neuron = Neuron("language", 1, 5)
    rows = [
        r
        for r in profile.concepts.to_pylist()
        if (r["method"], r["source"], r["reduce"]) == ("ablation", "text", "mean")
    ]
    ranks = {c: best(stored_atlas, 128, "ablation", "text", "mean", c).index(neuron) + 1 for c in ("cat", "dog")}
    assert {r["concept"]: r["rank"] for r in rows} == ranks
    assert {(r["projection"], r["side"]) for r in profile.tokens.to_pylist()} == {
        (n, s) for n in ("z", "plain") for s in ("top", "bottom")
    }
    for source in ("image", "text"):
        values = [r["value"] for r in profile.exemplars.to_pylist() if r["source"] == source]
        assert values == sorted(values, reverse=True)
    with pytest.raises(UsageError, match="neurons 0/0 to 1/63"):
        Atlas.open(stored_atlas).neuron("2/0")
    with pytest.raises(UsageError, match="not a neuron"):
        Atlas.open(stored_atlas).neuron("two")


def test_agreement_is_spearmans_correlation_with_the_reference(stored_atlas: Path) -> None:
    rows = Atlas.open(stored_atlas).agreement("ablation", source="text").to_pylist()
    for method in ("contribution", "gradient_x_activation", "activation"):
        each = []
        for concept in ("cat", "dog"):
            reference = scores_of(stored_atlas, concept, "ablation", "text", "contrast")
            mine = scores_of(stored_atlas, concept, method, "text", "contrast")
            each.append(spearmanr([reference[n] for n in reference], [mine[n] for n in reference]).statistic)
        (row,) = [r for r in rows if r["method"] == method and r["reduce"] == "contrast"]
        assert row["correlation"] == pytest.approx(np.mean(each), abs=1e-6)
        assert row["maps"] == 2


def test_edits_are_stored_versioned_read_back_and_removed(own_atlas: Path) -> None:
    atlas = Atlas.open(own_atlas)
    neurons = atlas.query("dog", top=3)
    first = atlas.create_edit("no-dog", neurons, kinds.ablate()).data
    second = atlas.create_edit("no-dog", neurons, kinds.scale(2)).data
    third = atlas.create_edit("no-dog", neurons, kinds.steer(-1.5)).data
    mean = atlas.create_edit("mean-dog", neurons, kinds.mean()).data
    assert [e.label for e in (first, second, third, mean)] == ["no-dog@1", "no-dog@2", "no-dog@3", "mean-dog@1"]
    assert {(c.gain, c.bias) for c in first.changes} == {(0, 0)}
    assert {(c.gain, c.bias) for c in second.changes} == {(2, 0)}
    assert {(c.gain, c.bias) for c in third.changes} == {(1, -1.5)}
    means = scores_everywhere(own_atlas)
    assert {c.neuron: c.bias for c in mean.changes} == {n: pytest.approx(means[n]) for n in neurons}
    assert atlas.edit("no-dog").data == third and atlas.edit("no-dog@1").data == first
    assert first.provenance["maps"][0]["concept"] == "dog" and first.concept == "dog"
    assert check(own_atlas) == []
    done = rebuild(own_atlas)
    assert (done.runs, done.edits, done.skipped) == (1, 4, ())
    assert atlas.edit("no-dog@2").data == second
    assert atlas.remove_edit("no-dog@2") == ["no-dog@2"]
    assert atlas.remove_edit("no-dog") == ["no-dog@1", "no-dog@3"]
    with pytest.raises(UsageError, match="no edit called 'no-dog'; .*mean-dog"):
        atlas.edit("no-dog")
    assert check(own_atlas) == []


def scores_everywhere(path: Path) -> dict[Neuron, float]:
    sql = """SELECT s.layer, s.neuron, s.score FROM scores s JOIN maps m USING (map_id)
             WHERE m.concept_id IS NULL AND m.source = 'image' AND m.reduce = 'mean'"""
    with engine.connect_readonly(path) as connection:
        rows = engine.raw(connection).execute(sql).fetchall()
    return {Neuron("language", layer, index): score for layer, index, score in rows}


def test_an_edit_that_cannot_be_is_refused(own_atlas: Path) -> None:
    atlas = Atlas.open(own_atlas)
    neurons = atlas.query("dog", top=3)
    for name in ("", "../x", "a b", "a@1", "a/b"):
        with pytest.raises(UsageError, match="cannot name an edit"):
            atlas.create_edit(name, neurons, kinds.ablate())
    with pytest.raises(UsageError, match="no neurons"):
        atlas.create_edit("x", atlas.query("dog", score=">1e9"), kinds.ablate())
    atlas.create_edit("x", neurons, kinds.ablate())
    file = own_atlas / "edits" / "x@1.json"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(IntegrityError, match="damaged"):
        atlas.edit("x")
    file.unlink()
    with pytest.raises(UsageError, match="is gone"):
        atlas.edit("x")
    with pytest.raises(UsageError, match="no edit called 'x@7'"):
        atlas.edit("x@7")


def test_an_edit_applies_to_its_model_and_to_no_other(own_atlas: Path, llava: Any, opt: Any, picture: Any) -> None:
    atlas = Atlas.open(own_atlas)
    atlas.create_edit("no-dog", atlas.query("dog", top=20), kinds.ablate())
    edit = atlas.edit("no-dog")
    without = llava.ask("what is this ?", [picture], max_new_tokens=8)
    with edit.on(llava.model):
        edited = llava.ask("what is this ?", [picture], max_new_tokens=8)
    with edit.on(llava):
        assert llava.ask("what is this ?", [picture], max_new_tokens=8) == edited
    assert edited != without
    assert llava.ask("what is this ?", [picture], max_new_tokens=8) == without
    with pytest.raises(UsageError, match=r"no-dog@1 was made for .*not for these weights"), edit.on(opt):
        pass


def test_a_matched_control_has_as_many_other_neurons_of_every_layer() -> None:
    chosen = [Neuron("language", 0, i) for i in range(10)] + [Neuron("language", 3, 5)]
    drawn = matched_random(chosen, 64, 0)
    assert len(set(drawn)) == 11 and not set(drawn) & set(chosen)
    assert [n.layer for n in drawn] == [0] * 10 + [3]
    assert drawn == matched_random(chosen, 64, 0) != matched_random(chosen, 64, 1)
    crowded = matched_random(chosen, 12, 0)  # two others in layer 0: both, and eight of themselves
    assert len(set(crowded)) == 11 and {Neuron("language", 0, 10), Neuron("language", 0, 11)} < set(crowded)


def test_a_control_of_the_same_loudness() -> None:
    """Half of a layer's neurons are a hundred times as loud: loud ones stand in for loud ones, quiet for quiet."""
    loud = {layer: np.where(np.arange(200) % 2, 100.0, 1.0) + np.arange(200) / 1000 for layer in (0, 1)}
    chosen = [Neuron("language", 0, i) for i in (101, 103, 105)] + [Neuron("language", 1, i) for i in (100, 102)]
    drawn = matched_random(chosen, 200, 0, loud)
    assert len(set(drawn)) == 5 and not set(drawn) & set(chosen)
    assert all(n.index % 2 == (n.layer == 0) for n in drawn)
    assert drawn == matched_random(chosen, 200, 0, loud) != matched_random(chosen, 200, 1, loud)
    ends = [n.index for seed in range(20) for n in matched_random([Neuron("language", 0, 199)], 200, seed, loud)]
    assert min(ends) >= 199 - 2 * 10 and len(set(ends)) > 3  # one of the ten nearest


@pytest.mark.parametrize(("text", "layers"), [("3", (3,)), ("8-10", (8, 9, 10)), ("0,2,1-2", (0, 1, 2))])
def test_layers_are_read(text: str, layers: tuple[int, ...]) -> None:
    assert parse_layers(text) == layers


@pytest.mark.parametrize("text", ["", "a", "3-1", "-1", "1-", "0-99999999", "1;2"])
def test_what_is_no_layer_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_layers(text)


@pytest.mark.parametrize("text", ["3/117", "vision/3/17"])
def test_an_address_reads_back(text: str) -> None:
    assert str(Neuron.parse(text)) == text
