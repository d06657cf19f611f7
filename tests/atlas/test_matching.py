"""Neurons of two models by their profiles: what was planted is found, and only that; and words matched as they are."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atlas.api.atlas import Atlas
from atlas.errors import UsageError
from atlas.query.map_spec import MapSpec
from atlas.store import engine
from atlas.store.database import open_readonly
from atlas.vectors.matching import nearest_rows
from atlas.vectors.neuron_text import concept_maps, matching
from atlas.vectors.spaces import pick_model

CONCEPTS = ("bird", "bus", "cat", "dog", "fish", "tree")
LAYERS, WIDTH = 2, 8
PLANTED = {(0, 3): (1, 6), (1, 1): (0, 0), (1, 7): (1, 2)}
"""Neurons of the first model and those of the second that do alike."""


def scores(seed: int) -> np.ndarray:
    """(neurons, concepts)."""
    return np.random.default_rng(seed).standard_normal((LAYERS * WIDTH, len(CONCEPTS)))


FIRST, SECOND = scores(1), scores(2)
for mine, theirs in PLANTED.items():
    # Another scale and offset in every map: only what stands out within a map can be compared.
    SECOND[theirs[0] * WIDTH + theirs[1]] = FIRST[mine[0] * WIDTH + mine[1]]
FIRST[3, 3] = SECOND[WIDTH + 6, 3] = 9.0
FIRST[WIDTH + 1, 3] = SECOND[0, 3] = 7.0
FIRST[WIDTH + 7, 3] = SECOND[WIDTH + 2, 3] = 5.0
SCALES = np.linspace(0.5, 20, len(CONCEPTS))
OFFSETS = np.linspace(-3, 40, len(CONCEPTS))


def standardised(values: np.ndarray) -> np.ndarray:
    z = (values - values.mean(0)) / values.std(0)
    return z / np.linalg.norm(z, axis=1, keepdims=True)


def put(
    path: Path, make_run: Any, store_maps: Any, seed: int, values: np.ndarray, name: str, concepts: tuple[str, ...]
) -> None:
    run = make_run(seed, concepts=concepts, name=name, fingerprint=f"{seed}abcd".ljust(64, str(seed)))
    of = {
        concept: {(i // WIDTH, i % WIDTH): float(values[i, CONCEPTS.index(concept)]) for i in range(len(values))}
        for concept in concepts
    }
    store_maps(path, run, {"contribution": of})
    with engine.connect_writer(path) as connection:
        connection.exec_driver_sql(
            """UPDATE maps SET mean = s.mean, std = s.std FROM (SELECT map_id, avg(score) AS mean,
            stddev_pop(score) AS std FROM scores GROUP BY map_id) s WHERE maps.map_id = s.map_id"""
        )


@pytest.fixture
def two(empty: Path, make_run: Any, store_maps: Any) -> Path:
    put(empty, make_run, store_maps, 1, FIRST, "first", CONCEPTS)
    put(empty, make_run, store_maps, 2, SECOND * SCALES + OFFSETS, "second", CONCEPTS)
    return empty


def test_planted_neurons_are_matched_and_nothing_by_chance(two: Path) -> None:
    found = Atlas(two).match("first", "second", concept="dog", top=3)
    rows = found.to_pylist()
    assert [(r["layer"], r["neuron"]) for r in rows] == [(0, 3), (1, 1), (1, 7)]
    assert [(r["match_layer"], r["match_neuron"]) for r in rows] == list(PLANTED.values())
    assert all(r["mutual"] and r["similarity"] > 0.9 for r in rows)
    assert all(r["null"] < r["similarity"] and r["p"] <= 0.15 for r in rows)
    assert found.facts["concepts"] == list(CONCEPTS)


def test_similarities_are_the_cosines_of_standardised_profiles(two: Path) -> None:
    found = Atlas(two).match("first", "second", concept="bus", top=LAYERS * WIDTH, seed=3).to_pylist()
    left, right = standardised(FIRST), standardised(SECOND)
    cosines = left @ right.T
    generator = np.random.default_rng(3)
    nulls = np.array([(left @ right[:, generator.permutation(6)].T).max(1) for _ in range(20)])
    assert [r["rank"] for r in found] == list(range(1, LAYERS * WIDTH + 1))
    for row in found:
        i = row["layer"] * WIDTH + row["neuron"]
        j = row["match_layer"] * WIDTH + row["match_neuron"]
        assert j == cosines[i].argmax() and row["similarity"] == pytest.approx(cosines[i, j], abs=1e-5)
        assert row["mutual"] == (cosines[:, j].argmax() == i)
        assert row["null"] == pytest.approx(nulls[:, i].mean(), abs=1e-5)
        assert row["p"] == pytest.approx((1 + (nulls[:, i] >= cosines[i, j]).sum()) / 21, abs=1e-6)
    assert {r["mutual"] for r in found} == {True, False}
    again = Atlas(two).match("first", "second", concept="bus", top=LAYERS * WIDTH, seed=4).table
    assert again["null"].to_pylist() != [r["null"] for r in found]


def test_only_shared_concepts_count_and_three_are_needed(empty: Path, make_run: Any, store_maps: Any) -> None:
    put(empty, make_run, store_maps, 1, FIRST, "first", CONCEPTS[:5])
    put(empty, make_run, store_maps, 2, SECOND, "second", CONCEPTS[2:])
    put(empty, make_run, store_maps, 3, SECOND, "third", CONCEPTS[3:])
    atlas = Atlas(empty)
    assert atlas.match("first", "second", concept="dog").facts["concepts"] == ["cat", "dog", "fish"]
    with pytest.raises(UsageError, match=r"share 2 concepts with contribution maps \(dog, fish\); 3 or more"):
        atlas.match("first", "third", concept="dog")
    with pytest.raises(UsageError, match="'bus' is not one of the concepts for which both models have maps"):
        atlas.match("first", "second", concept="bus")


def test_models_are_named_or_told_by_their_fingerprints(two: Path, make_run: Any, store_maps: Any) -> None:
    atlas = Atlas(two)
    assert atlas.match("1abcd", "2abc", concept="dog", top=1).provenance["models"][0]["name"] == "first"
    put(two, make_run, store_maps, 4, FIRST, "second", CONCEPTS)
    with pytest.raises(UsageError, match="several weights are called 'second'; .*: 2abcd2222222, 4abcd4444444"):
        atlas.match("first", "second", concept="dog")
    assert atlas.match("first", "4abcd", concept="dog", top=1).table["similarity"][0].as_py() == pytest.approx(1)
    with pytest.raises(UsageError, match="no model called 'frist'; did you mean 'first'"):
        atlas.match("frist", "2abcd", concept="dog")


def test_maps_that_keep_only_their_best_cannot_be_matched(two: Path) -> None:
    with engine.connect_writer(two) as connection:
        connection.exec_driver_sql("UPDATE maps SET kept = 3 WHERE model_id = 2")
    with pytest.raises(UsageError, match="`atlas ingest --keep all`"):
        Atlas(two).match("first", "second", concept="dog")


def test_the_first_of_the_largest_products_is_found_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    from atlas.vectors import matching as module

    monkeypatch.setattr(module, "BLOCK", 7)
    generator = np.random.default_rng(0)
    asked, rows = generator.standard_normal((3, 4)), generator.standard_normal((40, 4))
    rows[33] = rows[5]
    values, places = nearest_rows(asked, rows)
    assert places.tolist() == (asked @ rows.T).argmax(1).tolist()
    assert np.allclose(values, (asked @ rows.T).max(1), atol=1e-6)


WORDS: dict[tuple[int, int], list[str]] = {
    (0, 0): [" dog", "Ġbark", " tree"],
    (0, 1): [" barks", "sea", " dogs"],
    (0, 2): ["sea", " ship", " sail"],
    (1, 4): [" the", " grass", "glass"],
    (1, 5): [" bark", " ship", " sea"],
}


@pytest.fixture
def worded(empty: Path, make_run: Any, store_maps: Callable[..., None]) -> Path:
    """Words of five neurons, and maps of dog (its best: 1/7) and cat (1/5)."""
    values = {
        concept: {(y, i): 1.0 * ((y, i) == best) for y in range(LAYERS) for i in range(WIDTH)}
        for concept, best in (("dog", (1, 7)), ("cat", (1, 5)))
    }
    run = make_run(1)
    store_maps(empty, run, {"contribution": values})
    with engine.connect_writer(empty) as connection:
        connection.exec_driver_sql("DELETE FROM decodings")
        for (layer, neuron), tokens in WORDS.items():
            listed = ", ".join(f"'{token}'" for token in tokens)
            connection.exec_driver_sql(
                f"INSERT INTO decodings VALUES (1, 'language', {layer}, {neuron}, 'z', 'top', [{listed}], [], [])"
            )
    return empty


def words_of(path: Path, text: str, share: float = 0.06) -> list[tuple[int, int, float, list[str]]]:
    with open_readonly(path) as connection:
        model, _ = pick_model(connection)
        chosen = concept_maps(connection, MapSpec())
        rows = matching(connection, model, chosen, text, 10, share).to_pylist()
    return [(r["layer"], r["neuron"], r["match"], r["matched"]) for r in rows]


def test_words_are_matched_by_how_rare_they_are(worded: Path) -> None:
    # Neurons with words: the five, and 1/7 by its concept (1/5 has the concept cat too).
    sea, ship, total = math.log(1 + 6 / 3), math.log(1 + 6 / 2), 6
    found = words_of(worded, "the ships at SEA")
    assert [row[:2] for row in found] == [(0, 2), (1, 5), (0, 1)] and total == 6
    second, third = 1 / math.log2(3), 1 / math.log2(4)  # where the word comes among the neuron's
    wanted = [sea + ship * second, ship * second + sea * third, sea * second]
    assert [row[2] for row in found] == pytest.approx([one / (sea + ship) for one in wanted], abs=1e-6)
    assert found[0][3] == ["ship", "sea"]


def test_concepts_count_by_name_form_and_supercategory(worded: Path) -> None:
    dog = {row[:2]: row[3] for row in words_of(worded, "dogs")}
    assert dog == {(0, 0): ["dog"], (0, 1): ["dog"], (1, 7): ["dog"]}
    assert [row[2] for row in words_of(worded, "dogs")] == pytest.approx([1, 1, 1 / math.log2(4)], abs=1e-6)
    animals = [row[:2] for row in words_of(worded, "an animal")]
    assert animals == [(1, 5), (1, 7)]
    assert [row[:2] for row in words_of(worded, "glass")] == [(1, 4)]  # no plural, and not grass


def test_function_words_count_only_alone(worded: Path) -> None:
    assert words_of(worded, "the whale") == []
    assert [row[:2] for row in words_of(worded, "the")] == [(1, 4)]
    with pytest.raises(UsageError, match="has no word"):
        words_of(worded, "?!")


def test_search_words_of_an_atlas(worded: Path) -> None:
    near = Atlas(worded).search("sea", top=2)
    assert near.table.column_names == ["component", "layer", "neuron", "match", "matched", "tokens", "concept"]
    assert [str(n) for n in near.neurons] == ["0/2", "0/1"]
    assert near.table["tokens"].to_pylist()[0] == ["sea", " ship", " sail"]
