"""Exact ablation of every neuron against the naive loop: one whole forward pass a neuron, with a zeroing hook."""

from __future__ import annotations

import time

import torch
from _models import middling_llava, prompts
from _timing import report

from atlas.live.hooks import affine, editing, tracing
from ingest.concepts import Target
from ingest.methods import ablation
from ingest.trace import Item, traced

BATCH, SAMPLED = 4, 64


def main() -> None:
    live = middling_llava()
    made = prompts(BATCH)
    items = [Item(n, p, (Target("concept", 0, 1.0),)) for n, p in enumerate(made)]
    neurons = len(live.layout.layers) * live.layout.width

    started = time.perf_counter()
    method = ablation.build()
    with traced(live, items, "image", layers=None, tap="product", grad=False) as trace:
        method.update(trace)
        clean = trace.clean
    exact = time.perf_counter() - started
    scores = next(iter(method.result())).scores

    batch = live.batch(made)
    rows = torch.arange(BATCH)
    positions = torch.tensor(batch.starts) - 1
    tokens = torch.tensor([p.answer[0] for p in made])
    worst, started = 0.0, time.perf_counter()
    for flat in range(0, neurons, neurons // SAMPLED):
        layer, neuron = divmod(flat, live.layout.width)
        rule = affine(torch.tensor([neuron]), torch.zeros(1), torch.zeros(1))
        with torch.no_grad(), editing(live.layout, {layer: rule}), tracing(live.layout, layers=[]) as capture:
            live.forward(batch)
        assert capture.norm_out is not None
        logp = live.logits(capture.norm_out[rows, positions]).log_softmax(-1)[rows, tokens]
        worst = max(worst, abs(float((clean - logp).mean()) - float(scores[layer, neuron])))
    naive = (time.perf_counter() - started) * neurons / SAMPLED
    detail = f"{neurons} neurons, batch {BATCH}: {exact:.1f} s against {naive:.0f} s, largest difference {worst:.1e}"
    report(
        "naive loop / exact ablation, no neuron zero", naive / exact, ">= 10", f"{detail} ({SAMPLED} of the loop run)"
    )


if __name__ == "__main__":
    main()
