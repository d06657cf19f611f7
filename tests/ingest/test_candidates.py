"""Exact ablation of the neurons that cheap methods rank best, in a run after theirs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from atlas import Atlas
from atlas.errors import UsageError
from atlas.query.amount import count_of
from atlas.store import create

OPTIONS: dict[str, Any] = {
    "model": "tiny-llava",
    "dataset": "scenes",
    "concepts": ["dog", "cat"],
    "sources": ["text"],
    "tasks": ["does"],
    "per_concept": 1,
}
NEURONS = 2048


def test_a_plan_is_of_both_runs(ablated: tuple[Atlas, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from ingest.requests.ingest import Ingest
    from ingest.run import plan

    monkeypatch.setattr(plan, "_no_rehearsal", lambda job, execution: "this is about the numbers alone")
    methods = ["contribution", "activation", "random", "ablation"]
    request = Ingest(**OPTIONS, methods=methods, candidates=["contribution:2%", "random:5"])
    told = {row["what"]: row["how_much"] for row in request.plan().to_pylist()}
    most = 2 * 2 * count_of("2%", NEURONS) + 5
    assert told["candidates"] == f"at most {most:,}" and told["maps"] == "12"
    assert told["ablation: neurons"] == f"{most:,}" and told["ablation: scores"] == f"{4 * most:,}"
    atlas, _ = ablated
    (count,) = atlas.sql("SELECT DISTINCT neurons FROM maps WHERE method = 'ablation'").table["neurons"].to_pylist()
    assert 0 < count <= most


def test_a_plan_of_candidates_costs_their_ablations_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from ingest.methods import ablation
    from ingest.requests.ingest import Ingest
    from ingest.run import plan_candidates

    planned: list[Any] = []
    monkeypatch.setattr(plan_candidates, "plan", lambda job, *_, **__: planned.append(job.methods) or [])
    options = {**OPTIONS, "methods": ["contribution", "ablation"]}
    Ingest(**options, candidates=["contribution:2%"]).plan()
    first, second = planned
    assert set(first) == {"contribution"} and set(second) == {"ablation"}
    times = ablation.build(**second["ablation"]).rehearse(NEURONS // 4, range(4))
    assert sum(times.values()) * ablation.REHEARSED == 2 * 2 * count_of("2%", NEURONS)
    assert max(times.values()) < 1.1 * min(times.values()), "they are spread over the layers"


@pytest.mark.parametrize("given", ["contribution", "contribution:0", "activation:2%", "ablation:3"])
def test_a_plan_refuses_what_the_run_would(given: str) -> None:
    from ingest.requests.ingest import Ingest

    with pytest.raises(UsageError, match="candidates"):
        Ingest(**OPTIONS, methods=["contribution", "ablation"], candidates=[given]).plan()


@pytest.fixture(scope="module")
def ablated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Atlas, Any]:
    path = tmp_path_factory.mktemp("candidates") / "c.atlas"
    create.init(path)
    atlas = Atlas(path)
    methods = ["contribution", "activation", "random", "ablation"]
    return atlas, atlas.ingest(**OPTIONS, methods=methods, candidates=["contribution:2%", "random:5"])


def tops(atlas: Atlas, method: str, top: int | str, concept: str, reduce: str) -> set[tuple[int, int]]:
    rows = atlas.query(concept=concept, method=method, reduce=reduce, top=top).table.to_pylist()
    return {(row["layer"], row["neuron"]) for row in rows}


def test_the_candidates_are_the_union_of_the_tops(ablated: tuple[Atlas, Any]) -> None:
    atlas, record = ablated
    reductions = {"contribution": ("mean", "contrast")}
    expected: set[tuple[int, int]] = set()
    for concept in ("dog", "cat"):
        for reduce in reductions["contribution"]:
            expected |= tops(atlas, "contribution", "2%", concept, reduce)
    # Of the random maps one is taken: each is another draw, and together they would be more than was asked for.
    draws = [tops(atlas, "random", 5, concept, "mean") for concept in ("dog", "cat")]
    assert len(draws[0] | draws[1]) == 10
    query = "SELECT name FROM maps JOIN concepts USING (concept_id) WHERE method = 'random' ORDER BY map_id LIMIT 1"
    expected |= draws[("dog", "cat").index(atlas.sql(query).table["name"][0].as_py())]
    assert count_of("2%", NEURONS) < len(expected) < 5 * count_of("2%", NEURONS)
    for concept in ("dog", "cat"):
        scored = atlas.query(concept=concept, method="ablation", reduce="mean", select="percentile:0").table
        rows = scored.to_pylist()
        assert {(row["layer"], row["neuron"]) for row in rows} <= expected
    (count,) = atlas.sql("SELECT DISTINCT neurons FROM maps WHERE method = 'ablation'").table["neurons"].to_pylist()
    assert count == len(expected)
    assert any(f"{len(expected):,} of their best neurons were ablated" in note for note in record.notes)


def test_the_scores_are_those_of_a_whole_ablation(ablated: tuple[Atlas, Any], empty_atlas: Path) -> None:
    atlas, _ = ablated
    names = ",".join(f"{layer}/{index}" for layer, index in sorted(tops(atlas, "contribution", 3, "dog", "contrast")))
    whole = Atlas(empty_atlas)
    whole.ingest(**OPTIONS, methods=["ablation"], param={"ablation.neurons": names})
    query = """SELECT c.name, s.layer, s.neuron, s.score FROM scores s JOIN maps m USING (map_id)
    JOIN concepts c USING (concept_id) WHERE m.method = 'ablation' AND m.reduce = 'mean'"""
    scores = [
        {(row["name"], row["layer"], row["neuron"]): row["score"] for row in a.sql(query).table.to_pylist()}
        for a in (whole, atlas)
    ]
    assert len(scores[0]) == 6
    for key, score in scores[0].items():
        assert scores[1][key] == pytest.approx(score, abs=1e-5)


def test_agreement_compares_the_two_runs_and_says_over_how_many_neurons(ablated: tuple[Atlas, Any]) -> None:
    atlas, _ = ablated
    answer = atlas.agreement()
    rows = {row["method"]: row for row in answer.table.to_pylist()}
    assert set(rows) == {"contribution", "activation", "random"}
    (count,) = {row["neurons"] for row in rows.values()}
    assert count < NEURONS and any(f"over the {count:,} of 2,048 neurons" in note for note in answer.notes)
    precision = {row["method"]: row["precision_1"] for row in atlas.leaderboard().table.to_pylist()}
    assert precision["contribution"] is not None, "all of its best were ablated"
    assert precision["random"] is None, "of its best, most were not: nobody can tell"


def test_the_same_command_again_does_nothing(ablated: tuple[Atlas, Any]) -> None:
    atlas, record = ablated
    methods = ["contribution", "activation", "random", "ablation"]
    again = atlas.ingest(**OPTIONS, methods=methods, candidates=["contribution:2%", "random:5"])
    assert not again.facts["fresh"] and again.facts["run_id"] == record.facts["run_id"]


@pytest.mark.parametrize(
    ("methods", "candidates", "message"),
    [
        (["contribution", "ablation"], ["contribution"], "'contribution' is not METHOD:AMOUNT"),
        (["contribution", "ablation"], ["contribution:0"], "0 is not a number of neurons"),
        (["contribution", "ablation"], ["activation:2%"], "activation is not another of this job's methods"),
        (["contribution", "ablation"], ["ablation:2%"], "ablation is not another of this job's methods"),
        (["contribution"], ["contribution:2%"], "are the neurons that ablation scores; add it to methods"),
    ],
)
def test_candidates_that_cannot_be(empty_atlas: Path, methods: list[str], candidates: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Atlas(empty_atlas).ingest(**OPTIONS, methods=methods, candidates=candidates)
    assert json.loads(json.dumps(Atlas(empty_atlas).runs().table.to_pylist())) == []
