"""What a job costs, by doing a little of it: the real code on a few of its examples, on models of the same widths with
one and with two layers of random weights.

Everything but the layers costs the same in the whole model, so two depths tell what a layer adds (see `cost`). Both
take the same examples. It runs in a process of its own, whose memory is measured and then given back.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import pyarrow as pa
import torch

from atlas.errors import AtlasError, Unsupported
from atlas.live.load.load_errors import first_line
from atlas.live.model import LiveModel
from ingest.attribution.estimators import GRADIENT, IMAGE_TARGET
from ingest.attribution.item import Item, shortest_first
from ingest.attribution.trace import ATTENTION, traced
from ingest.data.examples import Dataset, Example
from ingest.job import Execution, Job, make_job, open_dataset
from ingest.run import memory
from ingest.run.encode_examples import ExampleEncoder, Skipped
from ingest.run.map_step import Numbered, State
from ingest.run.phases import Phases
from ingest.run.prepare import collect, completed
from ingest.run.shallow import parameters_of, shallow

DEPTHS = (1, 2)
STRETCH = 4
"""How many batches a run sorts by length together (`ingest.run.map_step.stretches`)."""

TOKENS = (2, 6)
"""How many tokens are generated, twice: what one more costs."""

LARGEST = 4e12
"""Operations of a forward pass of the deeper model: fewer examples are rehearsed where all of a batch need more."""

POSITIONS = 512
"""Tokens of an example, as assumed for that."""


def sample_size(job: Job, execution: Execution) -> int:
    """How many examples go through the models together: a batch, or fewer of a large model. The same for every depth,
    as what two depths take is compared."""
    operations = 2 * parameters_of(job, execution, max(DEPTHS)) * POSITIONS
    return min(execution.batch_size, max(1, int(LARGEST / operations)))


def choose_samples(examples: Sequence[Example], size: int) -> dict[str, list[int]]:
    """source -> the numbers of the examples that are encoded, spread evenly over all that are answered in words: as
    many as a run sorts by length together, of which `size`, those of middle length, go through the models."""
    numbers: dict[str, list[int]] = {}
    for number, example in enumerate(examples):
        if example.target != IMAGE_TARGET:
            numbers.setdefault(example.source, []).append(number)
    return {source: spread(of_source, STRETCH * size) for source, of_source in numbers.items()}


def spread(numbers: Sequence[int], size: int) -> list[int]:
    """`size` of the numbers, or all where they are fewer, each from the middle of an equal part."""
    size = min(size, len(numbers))
    return [numbers[(2 * part + 1) * len(numbers) // (2 * size)] for part in range(size)]


def rehearse(
    job: Mapping[str, Any],
    execution: Mapping[str, Any],
    depth: int,
    samples: Mapping[str, Sequence[int]],
    size: int,
    scored: Sequence[int],
    ready: Callable[[], None],
) -> tuple[dict[str, Any], pa.Table | None]:
    """Seconds and bytes by source (see `_rehearsed`) of a model of `depth` layers, and the seconds of loading it. A
    process does it once: memory that was freed before would be used again, and not be counted.

    job, execution: as plain values. samples: of `choose_samples`. size: of `sample_size`. scored: the layers that the
    job scores.

    Raises:
        AtlasError: what the job itself would raise; Unsupported, in one line, where anything else fails.
    """
    ready()
    importlib.import_module("ingest.run.ingest")  # what a run has loaded takes memory too
    try:
        plain_job, how = make_job(dict(job)), Execution(**execution)
        dataset = open_dataset(plain_job)
        completed_job = completed(plain_job, dataset, how)
        examples = collect(completed_job, dataset)
        live, seconds = shallow(completed_job, how, depth)
        by_source = {
            source: _rehearsed(live, dataset, completed_job, scored, [(n, examples[n]) for n in numbers], size)
            for source, numbers in samples.items()
        }
    except (AtlasError, MemoryError):
        raise
    except Exception as error:
        raise Unsupported(first_line(error)) from error
    return {"loading": seconds, "sources": by_source}, None


def _rehearsed(
    live: LiveModel, dataset: Dataset, job: Job, scored: Sequence[int], sample: Sequence[Numbered], size: int
) -> dict[str, Any]:
    """What some examples of one source cost. numbers: theirs; encode: the seconds of all. usable: how many could be
    used; where none could, `why`, and no more. passed: how many went through the model, those of middle length; longer:
    how many times as long the longest is. pass: seconds. methods: seconds each. own, token, prefill: how many are
    answered by the model, and the seconds of one more token and of the rest of all their answers. memory, single:
    bytes, as of `_pass`, with all that passed and with one. state: bytes of the sums by part. concepts: of how many.
    """
    spoken = [(number, _spoken(example)) for number, example in sample]
    encoder = ExampleEncoder(live, dataset, job)
    ExampleEncoder(live, dataset, job).items(spoken[:1], 1)  # what is loaded only once
    started = time.perf_counter()
    items = shortest_first(encoder.items(spoken, len(spoken)))
    costs: dict[str, Any] = {"numbers": [number for number, _ in sample], "usable": len(items)}
    costs["encode"] = time.perf_counter() - started
    if not items:
        return costs | {"why": _why(encoder.skipped)}
    state, source = State(job), sample[0][1].source
    own, longest = [item for item in items if dict(sample)[item.number].answer is None], _length(items[-1])
    first = (len(items) - min(size, len(items))) // 2
    items = items[first : first + size]
    costs |= {"passed": len(items), "longer": longest / _length(items[-1])}
    for method in state.methods.values():
        if hasattr(method, "rehearse"):
            method.rehearse(live.layout.width, scored)
    _pass(live, job, state, source, items[:1])  # what a run does only once, such as checking restarts
    single = _pass(live, job, state, source, items[:1])
    costs |= _pass(live, job, state, source, items) | {"single": single["memory"]}
    costs["concepts"] = len({target.concept for item in items for target in item.targets})
    tensors = {name: part.state().values() for name, part in state.parts().items()}
    costs["state"] = {name: sum(tensor.nbytes for tensor in of_part) for name, of_part in tensors.items()}
    return costs | _answering(live, own[:size])


def _length(item: Item) -> int:
    return len(item.prompt.ids) + len(item.prompt.answer)


def _answering(live: LiveModel, items: Sequence[Item]) -> dict[str, Any]:
    """What answering these takes: see `_rehearsed`. Nothing, where there are none."""
    if not items:
        return {}
    prompts = [replace(item.prompt, answer=()) for item in items]
    seconds = [_timed(lambda n=count: live.generate(prompts, max_new_tokens=n)) for count in TOKENS]  # type: ignore[misc]
    token = max(0.0, (seconds[1] - seconds[0]) / (TOKENS[1] - TOKENS[0]))
    return {"own": len(items), "token": token, "prefill": max(0.0, seconds[0] - TOKENS[0] * token)}


def _spoken(example: Example) -> Example:
    """An example whose answer the model would give, with words of the same kind in its place."""
    if example.answer is not None:
        return example
    words = [mention.words or mention.concept for mention in example.mentions]
    return replace(example, answer="a " + " and a ".join(words or ["thing"]))


def _why(skipped: Skipped) -> str:
    """Why no example of a sample could be used."""
    for pointer, error in skipped.media.items():
        return f"{pointer}: {error}"
    names = ", ".join(skipped.unmentioned)
    return f"their answers do not mention {names}" if names else "they have no words to explain"


def _pass(live: LiveModel, job: Job, state: State, source: str, items: Sequence[Item]) -> dict[str, Any]:
    """One shared pass over the items: its seconds, those of every method, and bytes. before: in use before it. pass:
    at most during it. held: in use after it. working: what the methods use besides.
    """
    grad = any(GRADIENT in method.needs for method in state.methods.values())
    attention = any(ATTENTION in method.needs for method in state.methods.values())
    state.phases = Phases()
    state.phases.wait = partial(_wait, live)
    in_use = {"before": _forget_peak(live)}
    started = time.perf_counter()
    with ExitStack() as stack:
        trace = stack.enter_context(
            traced(live, items, source, layers=None, tap=job.tap, grad=grad, attention=attention)
        )
        _wait(live)
        seconds_of_pass = time.perf_counter() - started
        in_use["pass"] = _peak(live)
        in_use["held"] = _forget_peak(live)
        state.update(trace)
    in_use["working"] = max(0, _peak(live) - in_use["held"])
    return {"pass": seconds_of_pass, "methods": dict(state.phases), "memory": in_use}


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _wait(live: LiveModel) -> None:
    if live.device.type == "cuda":
        torch.cuda.synchronize(live.device)


def _forget_peak(live: LiveModel) -> int:
    """Measure the largest memory anew, and say how much is in use: building a shallow model takes more than it does."""
    if live.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(live.device)
        return int(torch.cuda.memory_allocated(live.device))
    return memory.forget_peak()


def _peak(live: LiveModel) -> int:
    """The bytes in use at most since then: of the GPU, where the model is on one."""
    return int(torch.cuda.max_memory_allocated(live.device)) if live.device.type == "cuda" else memory.peak()


def plain(job: Job, execution: Execution) -> dict[str, Any]:
    """The first arguments of `rehearse`, for JSON."""
    return {"job": asdict(job), "execution": asdict(execution)}
