"""What a job costs, by doing a little of it: the real code on a few of its examples, on models of the same widths with
one and with two layers of random weights.

Everything but the layers costs the same in the whole model, so two depths tell what a layer adds (see `cost_model`).
It runs in a process of its own, whose memory is measured and then given back.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from atlas.live.load.checkpoints import DTYPES, find_device, quiet, read_config, sketch
from atlas.live.load.processors import load_processor
from atlas.live.model import LiveModel
from ingest import zoo
from ingest.attribution.estimators import GRADIENT, IMAGE_TARGET, PairMethod
from ingest.attribution.item import Item
from ingest.attribution.trace import ATTENTION, traced
from ingest.data.examples import Dataset, Example
from ingest.job import Execution, Job, make_job, open_dataset
from ingest.run import memory
from ingest.run.encode_examples import ExampleEncoder
from ingest.run.map_step import State
from ingest.run.phases import Phases
from ingest.run.prepare import collect, completed, loading

DEPTHS = (1, 2)
TOKENS = (2, 6)
"""How many tokens are generated, twice: what one more costs."""

LARGEST = 4e12
"""Operations of a forward pass of the deeper model: fewer examples are rehearsed where all of a batch need more."""


def rehearse(
    job: Mapping[str, Any], execution: Mapping[str, Any], depth: int, ready: Callable[[], None]
) -> tuple[dict[str, Any], pa.Table | None]:
    """Seconds and bytes by source (see `_rehearsed`) of a model of `depth` layers. A process does it once: memory that
    was freed before would be used again, and not be counted. job, execution: as plain values.

    Raises:
        AtlasError: what the job itself would raise.
    """
    ready()
    plain_job, how = make_job(dict(job)), Execution(**execution)
    dataset = open_dataset(plain_job)
    completed_job = completed(plain_job, dataset, how)
    examples = [e for e in collect(completed_job, dataset) if e.target != IMAGE_TARGET]
    layers = layers_of(completed_job, how)
    live = shallow(completed_job, how, depth)
    by_source = {}
    for source in dict.fromkeys(e.source for e in examples):
        sample = [e for e in examples if e.source == source][: _sample_size(live, how)]
        by_source[source] = _rehearsed(live, dataset, completed_job, layers, sample)
    return {"sources": by_source}, None


def shallow(job: Job, execution: Execution, depth: int) -> LiveModel:
    """The job's model with only `depth` layers, of random weights."""
    name, how = zoo.resolve(job.model), loading(job, execution)
    config = read_config(name, how)
    with quiet(), torch.random.fork_rng():
        torch.manual_seed(0)
        model = sketch(cut(config, depth), how).to(DTYPES.get(job.dtype, torch.float32)).eval()
    model.to(find_device(execution.device))
    processor = load_processor(name, job.revision, config, trust_remote_code=execution.trust_remote_code)
    return LiveModel(model, processor, name=job.model, folder=Path(name) if Path(name).is_dir() else None)


def layers_of(job: Job, execution: Execution) -> int:
    """How many layers the job's language model has."""
    config = read_config(zoo.resolve(job.model), loading(job, execution))
    return int(config.get_text_config(decoder=True).num_hidden_layers)


def cut(config: Any, depth: int) -> Any:
    """A copy of the config whose language model has `depth` layers; lists of one entry a layer are cut too."""
    config = copy.deepcopy(config)
    text = config.get_text_config(decoder=True)
    layers = text.num_hidden_layers
    for name, value in list(vars(text).items()):
        if isinstance(value, list | tuple) and len(value) == layers:
            setattr(text, name, value[:depth])
    text.num_hidden_layers = depth
    return config


def _sample_size(live: LiveModel, execution: Execution) -> int:
    operations = 2 * sum(p.numel() for p in live.model.parameters()) * 512
    return max(2, min(execution.batch_size, int(LARGEST / operations)))


def _rehearsed(live: LiveModel, dataset: Dataset, job: Job, layers: int, sample: Sequence[Example]) -> dict[str, Any]:
    """What a batch of one source costs. examples: in it. encode, pass: seconds. methods, answers: seconds each, and
    what they are multiplied by, as expensive methods do a part of their work. token, prefill: seconds a batch; only
    where answers are generated. held, working: bytes that the pass leaves in use for the methods, and bytes that these
    use besides.
    """
    spoken = [_spoken(example) for example in sample]
    encoder = ExampleEncoder(live, dataset, job)
    ExampleEncoder(live, dataset, job).items(list(enumerate(spoken[:1])), 1)  # what is loaded only once
    started = time.perf_counter()
    items = encoder.items(list(enumerate(spoken)), len(spoken))
    costs: dict[str, Any] = {"examples": len(sample), "encode": time.perf_counter() - started}
    if not items:
        return costs
    state = State(job)
    size = live.layout.width, layers
    costs["factors"] = {n: m.rehearse(*size) if hasattr(m, "rehearse") else 1.0 for n, m in state.methods.items()}
    _pass(live, job, state, sample[0].source, items[:2])  # what a run does only once, such as checking restarts
    costs |= _pass(live, job, state, sample[0].source, items)
    own = [item for item, example in zip(items, sample, strict=False) if example.answer is None]
    if own:
        prompts = [replace(item.prompt, answer=()) for item in own]
        seconds = [_timed(lambda n=count: live.generate(prompts, max_new_tokens=n)) for count in TOKENS]  # type: ignore[misc]
        costs["token"] = max(0.0, (seconds[1] - seconds[0]) / (TOKENS[1] - TOKENS[0]))
        costs["prefill"] = max(0.0, seconds[0] - TOKENS[0] * costs["token"])
    return costs


def _spoken(example: Example) -> Example:
    """An example whose answer the model would give, with words of the same kind in its place."""
    if example.answer is not None:
        return example
    words = [mention.words or mention.concept for mention in example.mentions]
    return replace(example, answer="a " + " and a ".join(words or ["thing"]))


def _pass(live: LiveModel, job: Job, state: State, source: str, items: Sequence[Item]) -> dict[str, Any]:
    """One shared pass over the items, with the seconds of the pass and of every method."""
    grad = any(GRADIENT in method.needs for method in state.methods.values())
    attention = any(ATTENTION in method.needs for method in state.methods.values())
    state.phases = Phases()
    state.phases.wait = partial(_wait, live)
    started = time.perf_counter()
    with ExitStack() as stack:
        trace = stack.enter_context(
            traced(live, items, source, layers=None, tap=job.tap, grad=grad, attention=attention)
        )
        _wait(live)
        seconds_of_pass = time.perf_counter() - started
        held = _forget_peak(live)
        state.update(trace)
    seconds = dict(state.phases)
    answers = sum(seconds[name] for name, m in state.methods.items() if name in seconds and isinstance(m, PairMethod))
    swapped = (seconds_of_pass + answers) if state.answers else 0.0
    in_use = {"held": held, "working": max(0, _peak(live) - held)}
    return {"pass": seconds_of_pass, "methods": seconds, "swapped": swapped, **in_use}


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _wait(live: LiveModel) -> None:
    if live.device.type == "cuda":
        torch.cuda.synchronize(live.device)


def _forget_peak(live: LiveModel) -> int:
    """Measure the largest memory anew, and say how much is in use: building a shallow model, or looking at pictures,
    takes more than its layers do."""
    if live.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(live.device)
        return int(torch.cuda.memory_allocated(live.device))
    return memory.forget_peak()


def _peak(live: LiveModel) -> int:
    """The bytes in use at most since then: of the GPU, where the model is on one."""
    return int(torch.cuda.max_memory_allocated(live.device)) if live.device.type == "cuda" else memory.peak()


def plain(job: Job, execution: Execution) -> dict[str, Any]:
    """The arguments of `rehearse`, for JSON."""
    return {"job": asdict(job), "execution": asdict(execution)}
