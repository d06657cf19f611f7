"""Answers behind other concepts' prompts: which are made, what is stored of them, and what `shared` makes of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binom

from atlas import Atlas
from atlas.stats.overlap_null import answer_statistics, suffixed, verdict
from ingest.job import Execution, Job, open_dataset
from ingest.run.encode_examples import ExampleEncoder
from ingest.run.ingest import ingest
from ingest.run.prepare import collect
from ingest.run.resolve import complete
from ingest.run.swapped_answers import swapped

EYES = frozenset({"image", "text"})


def test_an_answer_goes_behind_a_prompt_of_another_concept(small_job: Job, llava: Any) -> None:
    dataset = open_dataset(small_job)
    job = complete(small_job, dataset, EYES)
    portion = list(enumerate(collect(job, dataset)))
    feed = ExampleEncoder(llava, dataset, job)
    items = feed.items(portion, 4)
    found = {item.number: item for item in swapped(feed, items, portion)}
    assert len(found) == len(items) > 8
    asked = {tuple(prompt.ids): e for _, e in portion if (prompt := feed.prompt(replace(e, answer=None))) is not None}
    for item in items:
        mine, other = portion[item.number][1], found[item.number]
        assert (other.prompt.answer, other.targets) == (item.prompt.answer, item.targets)
        if mine.source == "text":  # pictures all have the same words before them
            theirs = asked[tuple(other.prompt.ids)]
            assert theirs.task == mine.task and {m.concept for m in theirs.mentions} != {
                m.concept for m in mine.mentions
            }
        assert set(other.prompt.extras) == set(item.prompt.extras)
    few = list(swapped(feed, items[:3], portion))
    assert [f.prompt.ids for f in few] == [found[f.number].prompt.ids for f in few]
    alone = [(n, e) for n, e in portion if {m.concept for m in e.mentions} == {"dog"}]
    assert (
        list(swapped(feed, [i for i in items if i.number in dict(alone)], alone)) == []
    )  # nothing else is asked about


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, small_job: Job) -> Path:
    from atlas.store import create

    path = tmp_path_factory.mktemp("swapped") / "both.atlas"
    create.init(path)
    methods: dict[str, dict[str, Any]] = {"contribution": {}, "activation": {}}
    ingest(path, replace(small_job, swap_answers=True, methods=methods), Execution(batch_size=4))
    return path


def test_their_maps_are_stored_beside_and_asked_for_by_name_alone(both: Path, small_job: Job, tmp_path: Path) -> None:
    from atlas.store import create

    atlas = Atlas.open(both)
    assert atlas.query("dog", "contribution.answer", source="image", top=3).provenance["maps"][0]["method"] == (
        "contribution.answer"
    )
    methods = {m["method"] for m in atlas.query("dog", source="image", top=3).provenance["maps"]}
    assert methods == {"contribution"}
    listed = atlas.agreement("contribution", source="image").to_pylist()
    assert {r["method"] for r in listed} == {"activation"}
    plain, path = replace(small_job, methods={"contribution": {}, "activation": {}}), tmp_path / "plain.atlas"
    create.init(path)
    ingest(path, plain, Execution(batch_size=8))
    for method in ("contribution", "activation"):
        one, other = (a.query("dog", method, source="text", top=20) for a in (atlas, Atlas.open(path)))
        assert list(one) == list(other)  # the maps of the examples themselves are as ever


@pytest.mark.parametrize("size", [1, 16])
def test_no_size_of_batch_changes_them(size: int, both: Path, small_job: Job, tmp_path: Path) -> None:
    from atlas.store import create

    path = tmp_path / "again.atlas"
    create.init(path)
    methods: dict[str, dict[str, Any]] = {"contribution": {}, "activation": {}}
    ingest(path, replace(small_job, swap_answers=True, methods=methods), Execution(batch_size=size))
    for source in ("image", "text"):
        tables = [
            Atlas.open(p).query("dog", "contribution.answer", source=source, top=30).to_arrow() for p in (both, path)
        ]
        assert tables[0]["score"].to_pylist() == pytest.approx(tables[1]["score"].to_pylist(), abs=1e-5)


def test_shared_is_set_against_the_same_answers_alone(both: Path, stored_atlas: Path) -> None:
    found = Atlas.open(both).shared("dog", "contribution", top=20)
    tops = {
        (name, source): frozenset(
            (n.layer, n.index) for n in Atlas.open(both).query("dog", name, source=source, top=20)
        )
        for name in ("contribution", "contribution.answer")
        for source in ("image", "text")
    }
    image, text = tops["contribution", "image"], tops["contribution", "text"]
    swaps = [tops["contribution.answer", source] for source in ("image", "text")]
    expected = answer_statistics(image, text, swaps)
    assert {n: found.facts[suffixed(f"answer_{n}")] for n in expected} == pytest.approx(expected)
    every = Atlas.open(both).shared(concepts="all", method="contribution", top=20)
    row = next(r for r in every.to_pylist() if r["concept"] == "dog")
    assert row["p_answer"] == pytest.approx(expected["p_value"])
    assert "p_answer" not in Atlas.open(stored_atlas).shared("dog", "contribution", top=20).facts


def test_the_p_value_is_the_exact_test_of_what_is_in_one_alone() -> None:
    first, second = frozenset(range(20)), frozenset(range(8, 28))  # 12 in common
    swaps = [frozenset(range(100, 120)), frozenset({8, 9, 0, 1, *range(50, 66)})]  # the second's: four of the first
    found = answer_statistics(first, second, swaps)
    # Of the first: 10 in the second set alone, 2 in the swapped one alone. Of the second: none in the first's swapped.
    assert found["p_value"] == pytest.approx(max(binom(12, 0.5).sf(9), binom(12, 0.5).sf(11)))
    assert found["expected"] == pytest.approx((4 + 0) / 2) and found["lift"] == pytest.approx(12 / 2)
    same = answer_statistics(first, second, [first, second])
    assert same["p_value"] == 1


def test_what_the_answers_alone_give_is_a_caveat_until_it_is_known() -> None:
    counts = {"p_value": 1e-9, "matched_p_value": 0.01, "mismatched_p_value": 0.02, "mismatched_pairs": 60}
    assert verdict(counts, "shared", caveat="unless") == "shared, unless"
    assert verdict({**counts, "answer_p_value": 0.2}, "shared") == "not shown: as many by the answers' words alone"
    assert verdict({**counts, "answer_p_value": 0.01}, "shared") == "shared"
