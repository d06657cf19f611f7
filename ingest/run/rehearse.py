"""What a job costs, by doing a little of it: the real code on a few of its examples, on models of the same widths with
one and with two layers of random weights, and with three where a method runs layers again.

Everything but the layers costs the same in the whole model, so two depths tell what a layer adds (see `cost`). All
take the same examples. It runs in a process of its own, whose memory is measured and then given back.
"""

from __future__ import annotations

import importlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from functools import partial
from itertools import pairwise
from statistics import median_low
from typing import Any

import pyarrow as pa
import torch

from atlas.errors import AtlasError, Unsupported
from atlas.live.hooks import watching
from atlas.live.load.load_errors import first_line
from atlas.live.model import LiveModel
from ingest.attribution.estimators import GRADIENT
from ingest.attribution.item import Item, shortest_first
from ingest.attribution.trace import ATTENTION, Trace, traced
from ingest.data.examples import Dataset, Example
from ingest.job import Execution, Job, make_job, open_dataset
from ingest.run import memory
from ingest.run.encode_examples import ExampleEncoder
from ingest.run.map_step import State
from ingest.run.phases import Phases
from ingest.run.prepare import collect, completed
from ingest.run.rehearse_writing import decoding_costs, writing_costs
from ingest.run.resolve import methods
from ingest.run.samples import cut_batches
from ingest.run.shallow import shallow
from ingest.run.skipped import Skipped

DEPTHS, RESTARTING = (1, 2), (1, 2, 3)
"""The layers of the models. RESTARTING: of a method that runs the model again from a layer on: the last of the layers
behind it may run at some positions only, so that two of them tell what a further one adds.
"""

TOKENS = (2, 6)
"""How many tokens are generated, twice: what one more costs."""

REPEATS, SLOW = 3, 2.0
"""How often a pass of fewer seconds is timed; the one in the middle counts."""


def rehearse(
    job: Mapping[str, Any],
    execution: Mapping[str, Any],
    depth: int,
    samples: Mapping[str, Sequence[int]],
    batches: Sequence[int],
    scored: Sequence[int],
    ready: Callable[[], None],
) -> tuple[dict[str, Any], pa.Table | None]:
    """Seconds and bytes by source (see `_rehearsed`) of a model of `depth` layers, and what loading it takes. A
    process does it once: memory that was freed before would be used again, and not be counted.

    job, execution: as plain values. samples, batches: of `ingest.run.samples`. scored: the layers that the job scores.

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
        live, costs_of_loading = shallow(completed_job, how, depth)
        by_source = {
            source: _rehearsed(live, dataset, completed_job, scored, numbers, examples, batches)
            for source, numbers in samples.items()
        }
        decodings = decoding_costs(live, dataset) if depth == DEPTHS[0] else {}  # any depth would tell the same
    except (AtlasError, MemoryError):
        raise
    except Exception as error:
        raise Unsupported(first_line(error)) from error
    costs: dict[str, Any] = {"loading": costs_of_loading, "sources": by_source}
    return costs | ({"decodings": decodings} if decodings else {}), None


def _rehearsed(
    live: LiveModel,
    dataset: Dataset,
    job: Job,
    scored: Sequence[int],
    numbers: Sequence[int],
    examples: Sequence[Example],
    batches: Sequence[int],
) -> dict[str, Any]:
    """What some examples of one source cost. numbers: theirs; encode: the seconds of all. usable: how many could be
    used; where none could, `why`, and no more. passed: how many of these went through the model, and together: at most
    so many in one batch; longer: how many times as long the longest is. pass, layers: seconds of the passes, and of
    each layer in them. methods: seconds each. own, token, prefill: how many are answered by the model, and the seconds
    of one more token and of the rest of all their answers. before: bytes in use before a pass. memory, single: those of
    a batch and of one example (`_pass`). state: bytes of the sums by part. concepts: of how many. writing: see
    `writing_costs`.
    """
    spoken = [(number, _spoken(examples[number])) for number in numbers]
    encoder = ExampleEncoder(live, dataset, job, examples=examples)
    ExampleEncoder(live, dataset, job, examples=examples).items(spoken[:1], 1)  # what is loaded only once
    started = time.perf_counter()
    items = shortest_first(encoder.items(spoken, len(spoken)))
    costs: dict[str, Any] = {"numbers": list(numbers), "usable": len(items), "encode": time.perf_counter() - started}
    if not items:
        return costs | {"why": _why(encoder.skipped)}
    state, source, cut = State(job), examples[numbers[0]].source, cut_batches(items, *batches)
    for method in state.methods.values():
        if hasattr(method, "rehearse"):
            method.rehearse(live.layout.width, scored)
    _pass(live, job, state, source, cut[-1][:1])  # what a run does only once, such as checking restarts
    costs["before"] = _forget_peak(live)
    single = _pass(live, job, state, source, cut[-1][:1])
    costs |= _added([_pass(live, job, state, source, batch) for batch in cut]) | {"single": single["memory"]}
    costs |= {"passed": sum(map(len, cut)), "together": max(map(len, cut))}
    costs["longer"] = _length(items[-1]) / _length(cut[-1][-1])
    costs["concepts"] = len({target.concept for batch in cut for item in batch for target in item.targets})
    tensors = {name: part.state().values() for name, part in state.parts().items()}
    costs["state"] = {name: sum(tensor.nbytes for tensor in of_part) for name, of_part in tensors.items()}
    costs["writing"] = writing_costs(live, dataset, job, state, encoder, [example.id for example in examples])
    return costs | _answering(live, [item for item in items if examples[item.number].answer is None][: batches[0]])


def _added(passes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The seconds of some passes, added up, and the most bytes of any."""
    methods: Counter[str] = Counter()
    for one in passes:
        methods.update(one["methods"])
    in_use = {key: max(one["memory"][key] for one in passes) for key in passes[0]["memory"]}
    of_layers = [sum(seconds) for seconds in zip(*(one["layers"] for one in passes), strict=True)]
    return {"pass": sum(one["pass"] for one in passes), "layers": of_layers, "methods": dict(methods), "memory": in_use}


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
    """One shared pass over the items: its seconds, those of its layers and of every method, and bytes. pass: in use at
    most during it. held: in use after it. working: what the methods use besides.
    """
    grad = any(GRADIENT in method.needs for method in state.methods.values())
    attention = any(ATTENTION in method.needs for method in state.methods.values())
    state.phases, taken = Phases(), list[tuple[float, list[float]]]()
    state.phases.wait = partial(_wait, live)

    @contextmanager
    def forward() -> Iterator[Trace]:
        with _layer_clock(live) as ticks, ExitStack() as stack:
            started = time.perf_counter()
            trace = stack.enter_context(
                traced(live, items, source, layers=None, tap=job.tap, grad=grad, attention=attention)
            )
            _wait(live)
            taken.append((time.perf_counter() - started, [after - before for before, after in pairwise(ticks)]))
            yield trace

    _forget_peak(live)
    with forward() as trace:
        in_use = {"pass": _peak(live), "held": _forget_peak(live)}
        state.update(trace)
    del trace
    in_use["working"] = max(0, _peak(live) - in_use["held"])
    while len(taken) < REPEATS and taken[0][0] < SLOW:
        with forward():
            pass
    seconds, of_layers = median_low(taken)
    return {"pass": seconds, "layers": of_layers, "methods": dict(state.phases), "memory": in_use}


@contextmanager
def _layer_clock(live: LiveModel) -> Iterator[list[float]]:
    """When the first layer began, and when every layer was done, of the last pass."""
    ticks: list[float] = []

    def tick() -> None:
        _wait(live)
        ticks.append(time.perf_counter())

    def begin(*_: object) -> None:
        ticks.clear()
        tick()

    with ExitStack() as stack:
        for number, layer in enumerate(live.layout.layers):
            stack.enter_context(watching(layer, (lambda *_: None) if number else begin, tick))
        yield ticks


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _wait(live: LiveModel) -> None:
    if live.device.type == "cuda":
        torch.cuda.synchronize(live.device)


def _forget_peak(live: LiveModel) -> int:
    """Measure the largest memory anew, and say how much is in use, without what was freed and kept for later."""
    if live.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(live.device)
        return int(torch.cuda.memory_allocated(live.device))
    return memory.forget_peak(trim=True)


def _peak(live: LiveModel) -> int:
    """The bytes in use at most since then: of the GPU, where the model is on one."""
    return int(torch.cuda.max_memory_allocated(live.device)) if live.device.type == "cuda" else memory.peak()


def depths(job: Job, layers: int) -> tuple[int, ...]:
    """With how many layers a job is rehearsed whose model has so many."""
    restarts = any(getattr(method, "restarts", False) for method in methods(job).values())
    return RESTARTING if restarts and layers >= max(RESTARTING) else DEPTHS


def plain(job: Job, execution: Execution) -> dict[str, Any]:
    """The first arguments of `rehearse`, for JSON."""
    return {"job": asdict(job), "execution": asdict(execution)}
