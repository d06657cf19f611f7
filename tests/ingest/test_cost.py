"""The arithmetic from a rehearsal on one and two layers to a whole job."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

import ingest.methods
from atlas import registry
from atlas.errors import AtlasError
from ingest.data.examples import Example, Mention
from ingest.job import make_job
from ingest.methods import ablation
from ingest.run.cost import Work, linear, restarting, whole_cost
from ingest.run.swapped_answers import swapped_counts


def test_layers_cost_alike() -> None:
    for layers in (1, 2, 30):
        assert linear(3 + 2 * 1, 3 + 2 * 2, layers) == 3 + 2 * layers
    assert linear(5.0, 4.0, 30) == 5.0, "noise is no gain"


@pytest.mark.parametrize("last", [0.25, 0.1])
@pytest.mark.parametrize("scored", [range(6), [1, 4], [5]])
def test_what_restarts_costs_every_layer_behind(scored: Any, last: float) -> None:
    def cost(layers: int, chosen: Any) -> float:
        between = (max(0, layers - 2 - layer) for layer in chosen)
        return float(
            sum(0.5 + last * (layer + 1 < layers) + 0.25 * n for layer, n in zip(chosen, between, strict=True))
        )

    once, costs = dict.fromkeys(scored, 1.0), [cost(depth, range(depth)) for depth in (1, 2, 3)]
    assert restarting(costs, 6, once) == pytest.approx(cost(6, scored))
    if last == 0.25:
        assert restarting(costs[:2], 6, once) == pytest.approx(cost(6, scored))


def side(depth: int, **changes: Any) -> dict[str, Any]:
    """What four pictures cost on so many layers, in numbers that are easy to multiply."""
    in_use = {"pass": 9000, "held": 5000 + 90 * depth, "working": 10 * depth}
    times: dict[str, Any] = {
        "numbers": [1, 3, 5, 7],
        "usable": 4,
        "passed": 4,
        "together": 4,
        "longer": 1.0,
        "encode": 0.5,
        "pass": 1 + depth,
        "layers": [1.0] * depth,
        "methods": {"contribution": 0.1 * depth, "ablation": 1.0 * depth + 0.5 * depth * (depth - 1) / 2},
        "before": 1000 + 50 * depth,
        "memory": in_use,
        "single": {**in_use, "working": 4 * depth},
        "state": {"contribution": 80 * depth, "ablation": 80 * depth, "*exemplars": 40 * depth},
        "concepts": 2,
        "writing": {"portion": 0.1 * depth, "scores": 0.2 * depth, "exemplars": 0.3 * depth},
        "own": 2,
        "token": 0.01 * depth,
        "prefill": 0.2 * depth,
    }
    loading = {"begin": 3.0 + depth, "weights": 0.1 * depth, "parameters": 50 * depth}
    return {"loading": loading, "decodings": {"first": 1.0, "further": 1.0}, "sources": {"image": times | changes}}


CHEAP_AND_EXPENSIVE = {"contribution": {}, "ablation": {}}


def work(**changes: Any) -> Work:
    sizes = {"parameters": 500, "layers": 10, "width": 4 * ablation.REHEARSED, "scored": range(10), "batch_size": 4}
    return Work(**({"examples": {"image": 40}, **sizes} | changes))


def test_sources_methods_and_answers_add_up() -> None:
    job = make_job({"methods": CHEAP_AND_EXPENSIVE, "max_new_tokens": 20, "concepts": ["dog", "cat"], "exemplars": 8})
    cost = whole_cost([side(1), side(2)], job, work(own={"image": 20}))
    assert cost.seconds["encoding"] == pytest.approx(5.0) and cost.seconds["passes"] == pytest.approx(10 * 11)
    assert cost.seconds["contribution"] == pytest.approx(10 * 1.0)
    assert cost.seconds["ablation"] == pytest.approx(10 * 4 * (10 * 1.0 + 0.5 * 45))
    assert cost.seconds["answers"] == pytest.approx(10 * (2.0 + 20 * 0.1))
    assert cost.seconds["loading"] == pytest.approx(4 + 500 * 0.1 / 50)
    assert cost.seconds["writing"] == pytest.approx(1.0 * (160 + 2 * 40) / 200 + 2.0 + 3.0 * 2 + 10)
    assert cost.memory == 9000, "the pass itself takes more than what it leaves"
    assert cost.weights == 1500 and cost.sums == 10 * (80 + 80 + 2 * 40)


def test_a_part_of_the_layers_costs_its_part() -> None:
    job = make_job({"methods": CHEAP_AND_EXPENSIVE, "layers": "0,9"})
    cost = whole_cost([side(1), side(2)], job, work(scored=[0, 9]))
    assert cost.seconds["contribution"] == pytest.approx(10 * 1.0 * 2 / 10)
    assert cost.seconds["ablation"] == pytest.approx(10 * 4 * (2 * 1.0 + 0.5 * 9))
    methods = {**CHEAP_AND_EXPENSIVE, "ablation": {"neurons": "0/1,5/3"}}
    cost = whole_cost([side(1), side(2)], make_job({"methods": methods, "layers": "0,9"}), work(scored=[0, 9]))
    assert cost.seconds["ablation"] == pytest.approx(10 / ablation.REHEARSED * (1.0 + 0.5 * 9))


def test_a_method_says_itself_that_it_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {name for name in registry.names(ingest.methods) if getattr(build_of(name)(), "restarts", False)}
    assert known == {"ablation", "integrated_gradients", "knowledge_neurons"}
    job = make_job({"methods": {"contribution": {}}})
    seconds = {"contribution": 1.0}, {"contribution": 3.0}
    sides = [side(depth, methods=taken) for depth, taken in zip((1, 2), seconds, strict=True)]
    assert whole_cost(sides, job, work()).seconds["contribution"] == pytest.approx(10 * (1 + 2 * 9))
    monkeypatch.setattr(type(build_of("contribution")()), "restarts", True, raising=False)
    assert whole_cost(sides, job, work()).seconds["contribution"] == pytest.approx(10 * (10 * 1.0 + 1.0 * 45))


def build_of(name: str) -> Any:
    return registry.load(ingest.methods, name).build


def test_a_batch_takes_more_memory_than_a_part_of_it() -> None:
    job = make_job({"methods": CHEAP_AND_EXPENSIVE})
    held, example = 5000 + 90 * 10, (4000 + 40 * 10) / 4
    cost = whole_cost([side(1), side(2)], job, work(batch_size=10))
    in_pass = linear(9000 + 6 * (9000 - 1050) / 4, 9000 + 6 * (9000 - 1100) / 4, 10)
    assert cost.memory == pytest.approx(max(in_pass, held + 6 * example + 100 + 6 * 20))
    assert whole_cost([side(1), side(2)], job, work(batch_size=10, examples={"image": 3})).memory == 9000


def test_every_portion_is_written_and_tokens_once() -> None:
    job = make_job({"methods": CHEAP_AND_EXPENSIVE, "concepts": ["dog", "cat"], "exemplars": 4})
    once, twice = (whole_cost([side(1), side(2)], job, work(portions=n)).seconds["writing"] for n in (1, 2))
    assert twice - once == pytest.approx(1.0)
    decoded = whole_cost([side(1), side(2)], job, work(decoded=True)).seconds["writing"]
    assert once - decoded == pytest.approx(10)


def test_the_longest_examples_take_more_memory() -> None:
    job = make_job({"methods": CHEAP_AND_EXPENSIVE})
    cost = whole_cost([side(1, longer=1.5), side(2, longer=1.5)], job, work())
    assert cost.memory == pytest.approx(linear(9000 + 2 * (9000 - 1050) / 4, 9000 + 2 * (9000 - 1100) / 4, 10))


def test_examples_that_cannot_be_used_cost_no_pass() -> None:
    job = make_job({"methods": CHEAP_AND_EXPENSIVE})
    whole, part = (
        whole_cost([side(1, usable=n, passed=2), side(2, usable=n, passed=2)], job, work()).seconds for n in (4, 3)
    )
    assert part["passes"] == pytest.approx(0.75 * whole["passes"]) and part["encoding"] == whole["encoding"]


def test_swapped_answers_cost_a_pass_and_their_methods_again() -> None:
    job = make_job({"methods": CHEAP_AND_EXPENSIVE, "swap_answers": True, "concepts": ["dog", "cat"], "exemplars": 0})
    cost = whole_cost([side(1), side(2)], job, work(swapped={"image": 20}))
    assert cost.seconds["passes"] == pytest.approx(1.5 * 10 * 11)
    for method in CHEAP_AND_EXPENSIVE:
        assert cost.seconds[f"{method}.answer"] == pytest.approx(cost.seconds[method] / 2)
    assert cost.sums == 2 * whole_cost([side(1), side(2)], replace(job, swap_answers=False), work()).sums > 0


def test_examples_have_a_swapped_answer_where_another_concept_is_asked_alike() -> None:
    def example(concept: str, task: str) -> Example:
        return Example("text", task, "find", "what?", "that", (Mention(concept),))

    asked = [("dog", "does"), ("dog", "does"), ("cat", "does"), ("dog", "has")]
    portion = list(enumerate(example(*words) for words in asked))
    assert swapped_counts(portion) == {"text": 3}


def test_other_examples_on_two_layers_are_refused() -> None:
    job = make_job({"methods": CHEAP_AND_EXPENSIVE})
    for other in ({"numbers": [1, 3, 5]}, {"numbers": [0, 3, 5, 7]}, {"usable": 3}, {"passed": 3}):
        with pytest.raises(AtlasError, match="different image examples"):
            whole_cost([side(1), side(2, **other)], job, work())


def test_a_source_without_a_usable_example_is_named() -> None:
    job = make_job({"methods": CHEAP_AND_EXPENSIVE})
    lost = {
        "sources": {"image": {"numbers": [1, 3], "usable": 0, "encode": 0.1, "why": "they are gone"}},
        "loading": side(1)["loading"],
        "decodings": side(1)["decodings"],
    }
    assert whole_cost([lost, lost], job, work()).uncounted == {"image": "they are gone"}


def test_a_part_of_an_ablation_says_how_much_is_left() -> None:
    every = ablation.build()
    assert every.rehearse(1024, range(8)) == dict.fromkeys(range(8), 1024 / ablation.REHEARSED)
    assert len(every.sampled) == ablation.REHEARSED
    some = ablation.build(neurons="0/1,0/2,3/4,7/0", layers="0-3")
    assert some.rehearse(1024, [0, 1, 7]) == {0: 2 / ablation.REHEARSED, 1: 0.0, 7: 0.0}
