"""What the atlas costs on real weights, and beside them the same on the embedded model.

smollm2-135m and photo-vlm where `atlas models get` has fetched them. Ratios are of this process's own time,
interleaved; whole commands take what a clock on the wall says. Name models to have only these.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from _real import Real, toy_and_fetched
from _timing import interleaved, report
from torch import Tensor

from atlas.api.atlas import Atlas
from atlas.live.edit.restart import layer_output, resume
from atlas.live.hooks import tracing
from atlas.live.logit_lens import BLOCK
from atlas.live.model import LiveModel
from ingest import zoo
from ingest.attribution.item import Item
from ingest.attribution.path_gradients import PathGradients
from ingest.attribution.trace import LOG_PROBABILITY, Trace, traced
from ingest.job import Execution, Job, make_job, open_dataset
from ingest.run.encode_examples import ExampleEncoder
from ingest.run.map_step import State
from ingest.run.prepare import collect, completed

BATCH, EXAMPLES, STEPS = 16, 157, 20
FORWARD = ("contribution", "activation", "random")
GRADIENTS = ("gradient", "gradient_x_activation")
INGESTED = ("activation", "contribution", "gradient_x_activation", "random")


def named(methods: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    return {name: {} for name in methods}


def prepared(model: Real, live: LiveModel, methods: tuple[str, ...]) -> tuple[Job, list[Item]]:
    """The job, and a batch of its examples, answered by the model where the dataset has no answers."""
    job = make_job(model.job(named(methods)))
    dataset = open_dataset(job)
    job = completed(job, dataset, Execution())
    numbered = list(enumerate(collect(job, dataset)))[: 2 * BATCH]
    return job, ExampleEncoder(live, dataset, job).items(numbered, BATCH)[:BATCH]


def job_over(live: LiveModel, model: Real, job: Job, items: list[Item], grad: bool) -> Callable[[], None]:
    def run() -> None:
        state = State(job)
        with traced(live, items, model.source, layers=None, tap="product", grad=grad) as trace:
            state.update(trace)

    return run


def passes(model: Real, live: LiveModel) -> None:
    forward_job, items = prepared(model, live, FORWARD)
    gradient_job = make_job(model.job(named(GRADIENTS)))
    batch = live.batch([item.prompt for item in items])
    rows, at = torch.arange(len(items)), torch.tensor([len(item.prompt.ids) - 1 for item in items])

    def bare() -> None:
        with torch.no_grad():
            live.forward(batch)

    def both() -> None:
        with torch.enable_grad(), tracing(live.layout, grad=True) as capture:
            live.forward(batch)
            assert capture.norm_out is not None
            y = live.logits(capture.norm_out[rows, at]).log_softmax(-1)[:, 7].sum()
            torch.autograd.grad(y, list(capture.values.values()))

    sides = {
        "bare": bare,
        "job": job_over(live, model, forward_job, items, False),
        "both": both,
        "gradients": job_over(live, model, gradient_job, items, True),
    }
    seconds = interleaved(sides, 5, time.process_time)
    size = f"{len(items)} examples of at most {batch.roles.shape[1]} positions"
    detail = f"{seconds['job']:.3g} s against {seconds['bare']:.3g}; {size}"
    report(f"{model.name}: forward-only job / bare forward", seconds["job"] / seconds["bare"], "<= 1.15", detail)
    detail = f"{seconds['gradients']:.3g} s against {seconds['both']:.3g}"
    ratio = seconds["gradients"] / seconds["both"]
    report(f"{model.name}: gradient job / forward and backward", ratio, "<= 1.2", detail)


def floor(trace: Trace, layer: int) -> None:
    """As many forward and backward passes of the layers behind, over whole sequences, as the path has steps."""
    live, rows = trace.live, torch.arange(len(trace.items))
    hidden = layer_output(trace.capture, layer).detach()
    for _ in range(STEPS):
        with torch.enable_grad():
            leaf = hidden.clone().requires_grad_(True)
            last: Tensor = resume(live.layout, trace.capture, layer + 1, leaf, rows)
            outputs = trace.outputs(live.layout.norm(last[trace.rows, trace.positions]))
            torch.autograd.grad((outputs * trace.weights).sum(), leaf)


def paths(model: Real, live: LiveModel) -> None:
    _, items = prepared(model, live, FORWARD)
    layer = min(len(live.layout.layers) * 3 // 4, len(live.layout.layers) - 2)
    with traced(live, items, model.source, layers=None, tap="product", grad=False) as trace:
        for positions, target in (("predicting", "<= 3"), ("all", "<= 3")):
            ours = PathGradients(STEPS, "right", positions, LOG_PROBABILITY, 8192)
            sides: dict[str, Callable[[], object]] = {
                "floor": partial(floor, trace, layer),
                "ours": partial(ours.attribute, trace, layer),
            }
            seconds = interleaved(sides, 1 if len(live.layout.layers) > 8 else 5, time.process_time)
            detail = f"layer {layer}, {STEPS} steps, {len(trace.pairs)} pairs; {seconds['ours']:.3g} s"
            claim = f"{model.name}: integrated gradients at {positions} positions / passes of the layers behind"
            report(claim, seconds["ours"] / seconds["floor"], target, detail)


def bare_decoding(live: LiveModel) -> float:
    """Seconds of unembedding times write vectors, all neurons, measured on the first three layers."""
    head, layers = live.layout.unembedding(), len(live.layout.layers)
    started = time.perf_counter()
    for layer in range(min(3, layers)):
        write = live.layout.write_vectors(layer)
        for first in range(0, write.shape[1], BLOCK):
            write[:, first : first + BLOCK].T @ head.T
    return (time.perf_counter() - started) * layers / min(3, layers)


def some_concepts(model: Real) -> tuple[dict[str, Any], int]:
    """A job of as many of the dataset's concepts as have EXAMPLES examples at most, and how many it has."""
    content = model.job(named(INGESTED)) | {"per_concept": 2}
    dataset = open_dataset(make_job(content))
    names, found = list(model.concepts), 0
    for concept in ["", *sorted(set(dataset.concepts) - set(names))]:
        wider = content | {"concepts": [*names, *([concept] if concept else [])]}
        count = len(collect(completed(make_job(wider), dataset, Execution()), dataset))
        if count > EXAMPLES:
            break
        names, found = wider["concepts"], count
    return content | {"concepts": names}, found


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def commands(model: Real, live: LiveModel, path: Path) -> None:
    """Ingest, evaluate, query and search, as `Atlas` answers them."""
    content, count = some_concepts(model)
    atlas, concept = Atlas.open(path, create=True), model.concepts[0]
    seconds, run = timed(lambda: atlas.ingest(**content | {"methods": INGESTED}))
    phases = run.facts["outcome"]["phases"]
    detail = ", ".join(f"{name} {spent:.3g}" for name, spent in phases.items() if spent >= 0.05)
    report(f"{model.name}: ingest of {count} examples, seconds", seconds, "", detail)
    bare = bare_decoding(live)
    ratio = phases["decoding"] / bare
    report(f"{model.name}: decoding / bare product", ratio, "<= 2", f"{bare:.3g} s bare, not interleaved")
    asked: dict[str, Any] = {
        "dataset": model.dataset,
        "sources": [model.source],
        "concepts": list(model.concepts),
        "per_concept": 2,
        "seeds": 1,
    }
    seconds, answer = timed(lambda: atlas.evaluate(method="contribution", model=model.name, **asked))
    report(f"{model.name}: evaluate contribution, seconds", seconds, "", f"{answer.table.num_rows} rows, {asked}")
    sides: Mapping[str, Callable[[], object]] = {
        "query": lambda: atlas.query(concept, "contribution"),
        "search": lambda: atlas.search(concept),
    }
    for name, taken in interleaved(sides, 9).items():
        report(f"{model.name}: {name}, milliseconds", 1000 * taken, "", f"concept {concept}, best 10")


def measure(model: Real) -> None:
    live = LiveModel.load(zoo.resolve(model.name))
    neurons = len(live.layout.layers) * live.layout.width
    print(f"{model.name}: {neurons:,} neurons, {torch.get_num_threads()} threads")
    passes(model, live)
    paths(model, live)
    with tempfile.TemporaryDirectory() as folder:
        commands(model, live, Path(folder) / "real.atlas")


def main() -> None:
    for model in toy_and_fetched(sys.argv[1:]):
        measure(model)


if __name__ == "__main__":
    main()
