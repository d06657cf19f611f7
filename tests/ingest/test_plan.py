"""What a job is said to cost, against what it costs."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import families
import pytest
import torch

from atlas.errors import AtlasError
from atlas.live.layout import locate
from ingest.data.examples import Example, Mention
from ingest.job import Execution, Job, make_job
from ingest.methods import ablation
from ingest.run import memory, rehearse, shallow
from ingest.run.cost import Work, linear, restarting, whole_cost
from ingest.run.phases import Phases
from ingest.run.plan import plan
from ingest.run.swapped_answers import swapped_counts

LAYERS, WIDTH = 5, 1024


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dense model that is large enough for its own work to outweigh Python's."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from atlas.testing.models import TEMPLATE, tokenizer

    text = tokenizer()
    text.chat_template = TEMPLATE
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(text),
        hidden_size=384,
        intermediate_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=6,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    path = tmp_path_factory.mktemp("models") / "dense"
    LlamaForCausalLM(config).save_pretrained(path)
    text.save_pretrained(path)
    return path


def job_on(folder: Path, *methods: str, **more: Any) -> Job:
    content = {"model": str(folder), "dataset": "scenes", "concepts": ["dog", "cat"], "sources": ["text"]}
    return make_job({**content, "tasks": ["does", "has"], "methods": {key: {} for key in methods}, **more})


def test_layers_cost_alike() -> None:
    for layers in (1, 2, 30):
        assert linear(3 + 2 * 1, 3 + 2 * 2, layers) == 3 + 2 * layers
    assert linear(5.0, 4.0, 30) == 5.0, "noise is no gain"


@pytest.mark.parametrize("scored", [range(6), [1, 4], [5]])
def test_what_restarts_costs_every_layer_behind(scored: Any) -> None:
    def cost(layers: int, chosen: Any) -> float:
        return float(sum(0.5 + sum(0.25 for _ in range(layer + 1, layers)) for layer in chosen))

    once = dict.fromkeys(scored, 1.0)
    assert restarting(cost(1, [0]), cost(2, [0, 1]), 6, once) == pytest.approx(cost(6, scored))


def side(depth: int, **changes: Any) -> dict[str, Any]:
    """What four pictures cost on so many layers, in numbers that are easy to multiply."""
    in_use = {"before": 1000 + 50 * depth, "pass": 9000, "held": 5000 + 90 * depth, "working": 10 * depth}
    times: dict[str, Any] = {
        "numbers": [1, 3, 5, 7],
        "usable": 4,
        "encode": 0.5,
        "pass": 1 + depth,
        "methods": {"contribution": 0.1 * depth, "ablation": 1.0 * depth + 0.5 * depth * (depth - 1) / 2},
        "memory": in_use,
        "single": {**in_use, "working": 4 * depth},
        "state": {"contribution": 80 * depth, "ablation": 80 * depth, "*exemplars": 40 * depth},
        "concepts": 2,
        "own": 2,
        "token": 0.01 * depth,
        "prefill": 0.2 * depth,
    }
    return {"loading": 3.0 + depth, "sources": {"image": times | changes}}


CHEAP_AND_EXPENSIVE = {"contribution": {}, "ablation": {}}


def work(**changes: Any) -> Work:
    sizes = {"layers": 10, "width": 4 * ablation.REHEARSED, "scored": range(10), "batch_size": 4}
    return Work(**({"examples": {"image": 40}, **sizes} | changes))


def test_sources_methods_and_answers_add_up() -> None:
    job = make_job({"methods": CHEAP_AND_EXPENSIVE, "max_new_tokens": 20, "concepts": ["dog", "cat"], "exemplars": 8})
    cost = whole_cost([side(1), side(2)], job, work(own={"image": 20}))
    assert cost.seconds["encoding"] == pytest.approx(5.0) and cost.seconds["passes"] == pytest.approx(10 * 11)
    assert cost.seconds["contribution"] == pytest.approx(10 * 1.0)
    assert cost.seconds["ablation"] == pytest.approx(10 * 4 * (10 * 1.0 + 0.5 * 45))
    assert cost.seconds["answers"] == pytest.approx(10 * (2.0 + 20 * 0.1))
    assert cost.seconds["loading"] == pytest.approx(13)
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


def test_a_batch_takes_more_memory_than_a_part_of_it() -> None:
    job = make_job({"methods": CHEAP_AND_EXPENSIVE})
    held, example = 5000 + 90 * 10, (4000 + 40 * 10) / 4
    cost = whole_cost([side(1), side(2)], job, work(batch_size=10))
    in_pass = linear(9000 + 6 * (9000 - 1050) / 4, 9000 + 6 * (9000 - 1100) / 4, 10)
    assert cost.memory == pytest.approx(max(in_pass, held + 6 * example + 100 + 6 * 20))
    assert whole_cost([side(1), side(2)], job, work(batch_size=10, examples={"image": 3})).memory == 9000


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
    for other in ({"numbers": [1, 3, 5]}, {"numbers": [0, 3, 5, 7]}, {"usable": 3}):
        with pytest.raises(AtlasError, match="different image examples"):
            whole_cost([side(1), side(2, **other)], job, work())


def test_a_source_without_a_usable_example_is_named() -> None:
    job = make_job({"methods": CHEAP_AND_EXPENSIVE})
    lost = {"sources": {"image": {"numbers": [1, 3], "usable": 0, "encode": 0.1, "why": "they are gone"}}, "loading": 1}
    assert whole_cost([lost, lost], job, work()).uncounted == {"image": "they are gone"}


def test_a_sample_is_spread_over_its_source() -> None:
    assert rehearse.spread(range(100), 4) == [12, 37, 62, 87] and rehearse.spread([3, 5], 4) == [3, 5]
    assert rehearse.spread(range(9), 1) == [4]


@pytest.mark.parametrize("name", families.FAMILIES)
def test_every_family_is_rehearsed_with_fewer_layers(name: str) -> None:
    model, _ = families.build(name)
    cut = shallow.cut(model.config, 1)
    with torch.device("meta"):
        few_layers = type(model)(cut)
    assert len(locate(few_layers).layers) == 1 and locate(few_layers).width == locate(model).width
    assert model.config.get_text_config(decoder=True).num_hidden_layers > 1, "the config itself stays as it is"


def test_a_part_of_an_ablation_says_how_much_is_left() -> None:
    every = ablation.build()
    assert every.rehearse(1024, range(8)) == dict.fromkeys(range(8), 1024 / ablation.REHEARSED)
    assert len(every.sampled) == ablation.REHEARSED
    some = ablation.build(neurons="0/1,0/2,3/4,7/0", layers="0-3")
    assert some.rehearse(1024, [0, 1, 7]) == {0: 2 / ablation.REHEARSED, 1: 0.0, 7: 0.0}


def test_phases_are_added_and_stored(stored_atlas: Path) -> None:
    phases = Phases()
    for _ in range(2):
        with phases.phase("passes"):
            pass
    assert set(phases) == {"passes"} and phases["passes"] > 0
    from atlas import Atlas

    run = Atlas(stored_atlas).runs().table.to_pylist()[0]["run"]
    stored = Atlas(stored_atlas).run(run).facts["run"]["outcome"]["phases"]
    assert {"passes", "encoding"} <= set(stored) and all(seconds > 0 for seconds in stored.values())


def test_a_job_that_cannot_be_rehearsed_says_so(folder: Path) -> None:
    told = {row["what"]: row for row in plan(job_on(folder, "activation"), Execution(device="cuda"))}
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert "no GPU, so nothing is rehearsed" in told["speed"]["reckoned_from"]
    assert told["memory"]["how_much"].startswith("more than") and told["passes"]["how_much"].startswith("more than")
    told = {row["what"]: row for row in plan(replace(job_on(folder, "activation"), quantization="8bit"), Execution())}
    assert "the weights are quantised, so nothing is rehearsed" in told["speed"]["reckoned_from"]


MEASURE = """
import json, os, sys, tempfile
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
from pathlib import Path
from atlas.store import create
from ingest.job import Execution, make_job
from ingest.run.ingest import ingest
path = Path(tempfile.mkdtemp()) / "measured.atlas"
create.init(path)
print(json.dumps(ingest(path, make_job(json.loads(sys.argv[1])), Execution()).outcome))
"""


def measured(job: Job) -> dict[str, Any]:
    """The outcome of the job in a process of its own, whose memory is its own too."""
    content = {name: value for name, value in vars(job).items() if name not in ("revision",)}
    command = [sys.executable, "-c", MEASURE, json.dumps(content)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    outcome: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return outcome


def test_memory_is_this_process_s_own() -> None:
    ballast = bytearray(300 * 2**20)
    before = memory.peak()
    assert before >= 300 * 2**20
    child = [sys.executable, "-c", "from ingest.run import memory; print(memory.peak())"]
    assert int(subprocess.run(child, capture_output=True, text=True, check=True).stdout) < 250 * 2**20
    del ballast
    in_use = memory.forget_peak()
    if memory.CLEAR.exists():
        assert in_use <= memory.peak() < before
    large = bytearray(200 * 2**20)
    assert memory.peak() >= in_use + 190 * 2**20 and large


def amount(text: str) -> float:
    number, unit = text.split()
    scales = {"s": 1.0, "min": 60.0, "h": 3600.0, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}
    return float(number) * scales[unit]


def test_the_memory_is_within_half_as_much_again(folder: Path) -> None:
    job = job_on(folder, "contribution", "gradient_x_activation", "integrated_gradients", per_concept=4)
    told = {row["what"]: row["how_much"] for row in plan(job, Execution())}
    peak = measured(job)["peak_memory_bytes"]
    assert peak / 1.5 <= amount(told["memory"]) <= 1.5 * peak


EXPENSIVE = ("integrated_gradients", "knowledge_neurons", "logprob_increase", "ablation")


@pytest.mark.nightly
@pytest.mark.parametrize("method", ["gradient_x_activation", *EXPENSIVE])
def test_the_seconds_are_within_half_as_much_again(folder: Path, method: str) -> None:
    """Of an otherwise idle machine; benchmarks/plan.py prints the ratios."""
    job = job_on(folder, method, per_concept=4 if method == "ablation" else 32)
    told = {row["what"]: row["how_much"] for row in plan(job, Execution())}
    phases = measured(job)["phases"]
    for name in {method, "passes"} & set(told):
        assert phases[name] / 1.5 <= amount(told[name]) <= 1.5 * phases[name], (name, told[name], phases[name])
