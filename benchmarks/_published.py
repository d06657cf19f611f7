"""The loops of published code, written out plainly from their description, for comparison in the same run.

MM_Neurons' scoring (Pan et al. 2023): the static table of every neuron's logits is made beforehand and not timed.
MINER's importance scores and selection (Huang et al. 2024): its file for every sample is left out, and the attention
is given to it. Integrated gradients a layer at a time, a whole forward and backward pass a step. Knowledge neurons
(knowledge-neurons) a prompt and a layer at a time, ten steps a pass.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from atlas.live.encode import Prompt
from atlas.live.hooks import editing, tracing
from atlas.live.model import LiveModel
from ingest.attribution.trace import Trace

KEPT = 10_000


def score_nouns(
    values: list[Tensor], table: list[Tensor], rows: Sequence[tuple[int, int]]
) -> list[list[tuple[int, int, float]]]:
    """values: layer -> (K, N). table: layer -> (N, V). rows: (target, token). The best neurons of each noun."""
    found = []
    for k, token in rows:
        scores = torch.stack([values[layer][k] * table[layer][:, token] for layer in range(len(table))])
        flat, order = scores.flatten().sort(descending=True)
        best = []
        for i in range(min(KEPT, len(flat))):
            place = int(order[i].item())
            best.append((place // scores.shape[1], place % scores.shape[1], flat[i].item()))
        found.append(best)
    return found


def importance(values: Tensor, attention: Tensor, masks: dict[str, Tensor]) -> Tensor:
    """(5, modalities, N) of one sample and layer: values (T, N), attention (T, T), masks (T,) by modality."""
    out = []
    for mask in masks.values():
        x, b = values[mask], attention[mask][:, mask]
        metrics = [
            (x > 0).float().mean(0),
            x.mean(0),
            x.amax(0),
            (b.softmax(0).transpose(0, 1) @ x).sum(0),
            (b.softmax(1) @ x).sum(0),
        ]
        out.append(torch.stack([(m - m.min()) / (m.max() - m.min()) for m in metrics]))
    return torch.stack(out, 1)


def select_evenly(scores: Tensor, ratio: float) -> list[list[tuple[int, int]]]:
    """LA_MU: the best K // M neurons of every modality over all layers; scores (M, L, N)."""
    modalities, layers, neurons = scores.shape
    count = int(ratio * layers * neurons) // modalities
    chosen = []
    for m in range(modalities):
        best, order = scores[m].flatten().topk(count)
        found = []
        for i in range(count):
            for place in order:  # where the value stands, by comparing elements
                layer, neuron = int(place) // neurons, int(place) % neurons
                if scores[m, layer, neuron] == best[i]:
                    found.append((layer, neuron))
                    break
        chosen.append(found)
    return chosen


def integrated_gradients(trace: Trace, steps: int) -> Tensor:
    """(L, P, N) at the predicting position of every pair's one target, for layers one after the other."""
    live, out = trace.live, []
    for layer in trace.layers:
        total = torch.zeros(len(trace.concepts), live.layout.width)
        with torch.no_grad(), tracing(live.layout, layers=[layer]) as baseline:
            live.forward(trace.batch)
        own = baseline.values[layer][trace.rows, trace.positions]
        for step in range(1, steps + 1):
            leaf = (own * (step / steps)).detach().requires_grad_(True)

            def rule(values: Tensor, leaf: Tensor = leaf) -> Tensor:
                return values.index_put((trace.rows, trace.positions), leaf)

            with torch.enable_grad(), editing(live.layout, {layer: rule}), tracing(live.layout, layers=[]) as run:
                live.forward(trace.batch)
                assert run.norm_out is not None
                y = trace.outputs(run.norm_out[trace.rows, trace.positions]).sum()
            total += torch.autograd.grad(y, leaf)[0]
        out.append(own * total / steps)
    return torch.stack(out)


def knowledge_neurons(live: LiveModel, prompts: Sequence[Prompt], steps: int, batch: int = 10) -> Tensor:
    """(L, P, N): the attributions of each prompt's next token, a prompt and a layer at a time (knowledge-neurons).

    The values scaled from 0 to themselves in `steps`, `batch` of them in one whole forward and backward pass.
    """
    out = torch.zeros(len(live.layout.layers), len(prompts), live.layout.width)
    for row, prompt in enumerate(prompts):
        one = live.batch([Prompt(prompt.ids)])
        for layer in range(len(live.layout.layers)):
            with torch.no_grad(), tracing(live.layout, layers=[layer]) as baseline:
                live.forward(one)
            own = baseline.values[layer].reshape(1, -1, live.layout.width)[0, -1]
            scaled, total = torch.linspace(0, 1, steps)[:, None] * own, torch.zeros_like(own)
            many = live.batch([Prompt(prompt.ids)] * batch)
            for begin in range(0, steps, batch):
                leaf = scaled[begin : begin + batch].clone().requires_grad_(True)

                def rule(values: Tensor, leaf: Tensor = leaf) -> Tensor:
                    return torch.cat([values[:, :-1], leaf[:, None]], 1)

                with torch.enable_grad(), editing(live.layout, {layer: rule}), tracing(live.layout, layers=[]) as run:
                    live.forward(many)
                    assert run.norm_out is not None
                    y = live.logits(run.norm_out[:, -1]).softmax(-1)[:, prompt.answer[0]].sum()
                total += torch.autograd.grad(y, leaf)[0].sum(0)
            out[layer, row] = own * total / steps
    return out
