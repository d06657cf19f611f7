"""Exact ablation of every neuron against the naive loop: one whole forward pass a neuron, with a zeroing hook.

Once on the embedded model, whose neurons are mostly zero, and once on a random model in which none is.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from _models import middling_llava, prompts
from _timing import report

from atlas.live.affine import affine
from atlas.live.hooks import editing, tracing
from atlas.live.model import LiveModel
from ingest.attribution.item import Item
from ingest.attribution.trace import traced
from ingest.data.targets import Target
from ingest.job import Execution, make_job, open_dataset
from ingest.methods import ablation
from ingest.run.encode_examples import ExampleEncoder
from ingest.run.prepare import collect, completed, load_model

BATCH, SAMPLED = 8, 64


def compare(name: str, live: LiveModel, items: Sequence[Item], source: str, target: str) -> None:
    neurons = len(live.layout.layers) * live.layout.width
    started = time.perf_counter()
    method = ablation.build()
    with traced(live, items, source, layers=None, tap="product", grad=False) as trace:
        method.update(trace)
        clean = trace.clean
    exact = time.perf_counter() - started
    scores = {m.concept: m.scores for m in method.result() if m.reduce == "mean"}

    rows, positions, tokens = trace.rows, trace.positions, trace.tokens
    counts = torch.tensor([trace.concepts.count(c) for c in trace.concepts])
    worst, started = 0.0, time.perf_counter()
    strongest = next(iter(scores.values())).abs().flatten().topk(SAMPLED).indices.tolist()
    for flat in strongest:  # the time does not depend on the neuron; the comparison means most where there is an effect
        layer, neuron = divmod(flat, live.layout.width)
        rule = affine(torch.tensor([neuron]), torch.zeros(1), torch.zeros(1))
        with torch.no_grad(), editing(live.layout, {layer: rule}), tracing(live.layout, layers=[]) as capture:
            live.forward(trace.batch)
            assert capture.norm_out is not None
            logits = live.logits(capture.norm_out[rows, positions])
        logp = trace.to_pairs(logits.log_softmax(-1).gather(-1, tokens[:, None])[:, 0])
        mean: dict[str, float] = {}
        for concept, effect in zip(trace.concepts, ((clean - logp) / counts).tolist(), strict=True):
            mean[concept] = mean.get(concept, 0.0) + effect
        worst = max(worst, *(abs(value - float(scores[c][layer, neuron])) for c, value in mean.items()))
    naive = (time.perf_counter() - started) * neurons / SAMPLED
    detail = f"{exact:.2f} s against {naive:.1f} s for {neurons} neurons and a batch of {len(items)}"
    report(f"naive loop / exact ablation, {name}", naive / exact, target, f"{detail}; largest difference {worst:.0e}")


def main() -> None:
    job = make_job({"per_concept": 1, "concepts": ("bird", "car", "cat", "dog", "fish", "horse")})
    dataset = open_dataset(job)
    job = completed(job, dataset, Execution())
    live = load_model(job, Execution())
    for source in ("text", "image"):
        mine = [(n, e) for n, e in enumerate(collect(job, dataset)) if e.source == source][:BATCH]
        compare(f"tiny-llava, {source}", live, ExampleEncoder(live, dataset, job).items(mine, BATCH), source, ">= 10")
    items = [Item(n, p, (Target("concept", 0, 1.0),)) for n, p in enumerate(prompts(BATCH))]
    compare("random model, no neuron zero", middling_llava(), items, "image", "none: restart and batching alone")


if __name__ == "__main__":
    main()
