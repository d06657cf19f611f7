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
from gguf_files import build_llama, write_gguf
from PIL import Image

from atlas.errors import Unsupported
from atlas.live.layout import locate
from atlas.store.limited_process import NeedsMemory
from ingest.job import Execution, Job, make_job
from ingest.run import memory, rehearse, samples, shallow
from ingest.run import plan as plan_module
from ingest.run.phases import Phases
from ingest.run.plan import plan
from ingest.run.session import prepare_job

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


def test_a_sample_is_spread_over_its_source() -> None:
    assert samples.spread(range(100), 4) == [12, 37, 62, 87] and samples.spread([3, 5], 4) == [3, 5]
    assert samples.spread(range(9), 1) == [4]


def test_batches_are_those_of_every_length_or_of_the_middle() -> None:
    lengths = list(range(12))
    assert samples.cut_batches(lengths, 3, 4) == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
    assert samples.cut_batches(lengths, 3, 1) == [[5, 6, 7]]
    assert samples.cut_batches(lengths, 8, 2) == [lengths[:6], lengths[6:]]
    assert samples.cut_batches(lengths[:2], 3, 4) == [[0, 1]]


@pytest.mark.parametrize("name", families.FAMILIES)
def test_every_family_is_rehearsed_with_fewer_layers(name: str) -> None:
    model, _ = families.build(name)
    cut = shallow.cut(model.config, 1)
    with torch.device("meta"):
        few_layers = type(model)(cut)
    assert len(locate(few_layers).layers) == 1 and locate(few_layers).width == locate(model).width
    assert model.config.get_text_config(decoder=True).num_hidden_layers > 1, "the config itself stays as it is"


def test_phases_are_added_and_stored(stored_atlas: Path) -> None:
    phases = Phases()
    for _ in range(2):
        with phases.phase("passes"):
            pass
    assert set(phases) == {"passes"} and phases["passes"] > 0
    from atlas import Atlas

    run = Atlas(stored_atlas).runs().table.to_pylist()[0]["run"]
    stored = Atlas(stored_atlas).run(run).facts["run"]["outcome"]["phases"]
    assert {"loading", "passes", "encoding", "writing"} <= set(stored) and all(
        seconds > 0 for seconds in stored.values()
    )


def test_a_job_that_cannot_be_rehearsed_says_so(folder: Path) -> None:
    told = {row["what"]: row for row in plan(job_on(folder, "activation"), Execution(device="cuda"))}
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert "no GPU, so nothing is rehearsed" in told["speed"]["reckoned_from"]
    assert told["memory"]["how_much"].startswith("more than") and told["passes"]["how_much"].startswith("more than")
    told = {row["what"]: row for row in plan(replace(job_on(folder, "activation"), quantization="8bit"), Execution())}
    assert "the weights are quantised, so nothing is rehearsed" in told["speed"]["reckoned_from"]


def test_a_model_without_a_tokenizer_is_assumed_and_says_so(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def in_this_process(_: str, arguments: dict[str, Any], **__: Any) -> Any:
        return rehearse.rehearse(**arguments, ready=lambda: None)

    monkeypatch.setattr(plan_module, "run_confined", in_this_process)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    told = {row["what"]: row for row in plan(job_on(tmp_path, "activation"), Execution())}
    assert "the rehearsal failed: cannot load the processor of" in told["speed"]["reckoned_from"]
    assert "it has no tokenizer" in told["speed"]["reckoned_from"] and "decoding" in told


@pytest.mark.parametrize("error", [RuntimeError("the end"), NeedsMemory("the end"), ValueError("the end")])
def test_a_rehearsal_that_fails_is_told_in_one_line(
    error: Exception, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(plan_module, "run_confined", fail)
    told = {row["what"]: row for row in plan(job_on(folder, "activation"), Execution())}
    assert "the rehearsal failed: the end, so nothing is rehearsed" in told["speed"]["reckoned_from"]
    assert told["memory"]["how_much"].startswith("more than")


def test_the_child_says_of_any_failure_what_it_was(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise KeyError("rope_theta")

    monkeypatch.setattr(rehearse, "shallow", fail)
    arguments = rehearse.plain(job_on(folder, "activation"), Execution())
    with pytest.raises(Unsupported, match="^KeyError: 'rope_theta'$"):
        rehearse.rehearse(**arguments, depth=1, samples={"text": [0]}, batches=[1, 1], scored=[0], ready=lambda: None)


def test_a_gguf_file_is_rehearsed_with_its_own_tokenizer(tmp_path: Path) -> None:
    model, tokenizer = build_llama()
    file = write_gguf(tmp_path / "model.gguf", model, tokenizer)
    live, loading = shallow.shallow(Job(model=str(file)), Execution(), 1)
    assert len(live.layout.layers) == 1 and min(loading.values()) > 0
    assert live.encoder.tokenizer("what is this ?").input_ids == tokenizer("what is this ?").input_ids


def test_a_shallow_model_has_the_dtype_and_the_attention_of_the_job(folder: Path, tmp_path: Path) -> None:
    import shutil

    from transformers import AutoModelForCausalLM

    shutil.copytree(folder, tmp_path / "half")
    AutoModelForCausalLM.from_pretrained(folder).to(torch.bfloat16).save_pretrained(tmp_path / "half")
    config_file = tmp_path / "half" / "config.json"
    job, execution = Job(model=str(tmp_path / "half"), dtype="auto"), Execution(attention="eager")
    for forget_dtype in (False, True):
        if forget_dtype:
            config = {key: value for key, value in json.loads(config_file.read_text()).items() if key != "dtype"}
            config_file.write_text(json.dumps(config))
        live, _ = shallow.shallow(job, execution, 1)
        assert {parameter.dtype for parameter in live.model.parameters()} == {torch.bfloat16}
        assert live.model.config._attn_implementation == "eager"
    assert shallow.shallow(replace(job, dtype="float32"), Execution(), 1)[0].dtype == "float32"


def test_the_sample_is_of_one_size_for_all_depths_and_at_most_a_batch(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_on(folder, "activation")
    prepared = prepare_job(job, Execution())
    assert [samples.batches_of(prepared.job, Execution(batch_size=n), 2)[0] for n in (1, 7, 16)] == [1, 7, 16]
    chosen = [samples.choose_samples(prepared.examples, n)["text"] for n in (1, 7, 10**6)]
    assert [len(sample) for sample in chosen] == [4, 28, len(prepared.examples)]
    operations = 2 * shallow.parameters_of(job, Execution(), 2) * samples.POSITIONS
    for examples, batches in ((0.5, (1, 1)), (3.5, (3, 1)), (33, (16, 2)), (1000, (16, 4))):
        monkeypatch.setattr(samples, "LARGEST", examples * operations)
        assert samples.batches_of(prepared.job, Execution(), 2) == batches


def test_what_cannot_be_used_is_told_and_the_rest_keeps_its_examples(tmp_path: Path) -> None:
    """Of three pictures that the model is to caption the first cannot be opened; then none can."""
    for name in ("a", "b", "c"):
        (tmp_path / "dog").mkdir(exist_ok=True)
        Image.new("RGB", (40, 40), (20 * ord(name) % 255, 60, 60)).save(tmp_path / "dog" / f"{name}.png")
    job = make_job({"model": "tiny-llava", "dataset": f"folder:{tmp_path}", "split": "all", "max_new_tokens": 8})
    prepared = prepare_job(job, Execution())
    live, _ = shallow.shallow(prepared.job, Execution(), 1)
    spoilt = [replace(example, answer="a dog" if n == 2 else None) for n, example in enumerate(prepared.examples)]
    (tmp_path / spoilt[0].media[0]).write_bytes(b"no picture")
    costs = rehearse._rehearsed(live, prepared.dataset, prepared.job, [0, 1], [0, 1, 2], spoilt, [2, 4])
    assert costs["numbers"] == [0, 1, 2] and costs["usable"] == 2 and costs["own"] == 1
    for example in spoilt:
        (tmp_path / example.media[0]).write_bytes(b"no picture")
    costs = rehearse._rehearsed(live, prepared.dataset, prepared.job, [0, 1], [0, 1, 2], spoilt, [2, 4])
    assert costs["usable"] == 0 and spoilt[0].media[0] in costs["why"] and "pass" not in costs


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
