"""What attribution costs beside the model itself, beside the published loops, and how it grows.

On one random model (4 layers, d_model 256, 1,024 neurons a layer, 64 image tokens): forward-only methods together over
a bare forward pass, and IoU of every neuron over it; gradient methods together over forward and backward; how the first
of these grows; and published loops over ours, outputs compared first. Nouns are scored with 4,096 neurons a layer, of
which 10,000 are kept; importance scores also with 784 image tokens, as the published products grow with their square.
"""

from __future__ import annotations

import math
import resource
from collections.abc import Callable, Sequence
from dataclasses import replace

import _published as published
import numpy as np
import torch
from _models import middling_llava, prompts
from _timing import interleaved, report

from atlas.live.grid.token_grids import Grid
from atlas.live.model import LiveModel
from ingest.attribution.estimators import GRADIENT, Method
from ingest.attribution.item import Item, Region
from ingest.attribution.path_gradients import PathGradients
from ingest.attribution.role_sums import prompt_masks, with_unions
from ingest.attribution.trace import Trace, traced
from ingest.data.targets import Target
from ingest.label_rules._strategies import select
from ingest.methods import (
    activation,
    contribution,
    gradient,
    gradient_x_activation,
    iou,
    lape,
    logprob_increase,
    miner,
    modality_profile,
    nam_text,
    random,
    schwettmann,
)

BATCH = 16
FORWARD = (contribution, nam_text, activation, random, lape, modality_profile, miner)


def items(count: int, concepts: int = 1, image: int = 64) -> list[Item]:
    targets = tuple(Target(f"concept {c}", c % 4, 1.0) for c in range(concepts))
    return [Item(n, p, targets) for n, p in enumerate(prompts(count, image))]


def reading(live: LiveModel, some: list[Item], methods: Sequence[Method]) -> Callable[[], None]:
    grad = any(GRADIENT in m.needs for m in methods)

    def run() -> None:
        with traced(live, some, "image", layers=None, tap="product", grad=grad) as trace:
            for method in methods:
                method.update(trace)

    return run


def bare(live: LiveModel, some: list[Item]) -> Callable[[], None]:
    batch = live.batch([item.prompt for item in some])

    def run() -> None:
        with torch.no_grad():
            live.forward(batch)

    return run


def forward_only(live: LiveModel) -> None:
    some = items(BATCH)
    sides = {"bare": bare(live, some), "together": reading(live, some, [m.build() for m in FORWARD])}
    for module in (*FORWARD, logprob_increase):
        sides[module.__name__.rpartition(".")[2]] = reading(live, some, [module.build()])
    seconds = interleaved(sides, 11)
    each = ", ".join(
        f"{name} {seconds[name] / seconds['bare']:.2f}" for name in sides if name not in ("bare", "together")
    )
    report("forward-only methods together / bare forward", seconds["together"] / seconds["bare"], "<= 1.15", each)


def placed(some: list[Item], image: int = 64) -> list[Item]:
    """The items with a region of each concept and one of another picture; image tokens come first in a prompt."""
    cells = image // 8
    grid = Grid(0, tuple(tuple(range(row * cells, (row + 1) * cells)) for row in range(cells)))
    own, other = np.zeros((480, 640), bool), np.zeros((480, 640), bool)
    own[100:250, 200:400], other[200:300, 50:250] = True, True
    return [replace(item, regions={t.concept: (Region((grid,), own, other),) for t in item.targets}) for item in some]


def overlap(live: LiveModel) -> None:
    some = placed(items(BATCH))
    sides = {"bare": bare(live, some), "iou": reading(live, some, [iou.build()])}
    sides["fewer points"] = reading(live, some, [iou.build(side=32)])
    seconds = interleaved(sides, 5)
    a_map = 1e6 * (seconds["iou"] - seconds["bare"]) / (BATCH * len(live.layout.layers) * live.layout.width)
    detail = f"{a_map:.0f} µs a map of 64 x 64 points; of 32 x 32: {seconds['fewer points'] / seconds['bare']:.2f}"
    report("IoU of every neuron / bare forward", seconds["iou"] / seconds["bare"], "no claim", detail)


def gradients(live: LiveModel) -> None:
    some = items(BATCH)
    batch = live.batch([item.prompt for item in some])
    shared = [
        gradient.build(),
        gradient_x_activation.build(),
        schwettmann.build(output="log_probability"),
        contribution.build(),
        activation.build(),
    ]
    other = [*shared[:2], schwettmann.build()]

    def both() -> None:
        from atlas.live.hooks import tracing

        with torch.enable_grad(), tracing(live.layout, grad=True) as capture:
            live.forward(batch)
            assert capture.norm_out is not None
            y = live.logits(capture.norm_out[:, -4]).log_softmax(-1)[:, 7].sum()
            torch.autograd.grad(y, list(capture.values.values()))

    sides = {"bare": both, "together": reading(live, some, shared), "logit": reading(live, some, other)}
    seconds = interleaved(sides, 11)
    detail = f"one explained by its logit takes a second backward pass: {seconds['logit'] / seconds['bare']:.2f}"
    report("gradient methods together / forward and backward", seconds["together"] / seconds["bare"], "<= 1.20", detail)


def scoring(live: LiveModel, trace: Trace) -> None:
    write = [live.layout.write_vectors(layer) for layer in trace.layers]
    table = [w.T @ live.layout.unembedding().T for w in write]
    values = [trace.at_targets(layer) for layer in trace.layers]
    rows = list(enumerate(trace.tokens.tolist()))

    def ours() -> tuple[torch.Tensor, torch.Tensor]:
        directions = trace.directions(norm=False)
        scores = torch.stack([v * (directions @ w) for v, w in zip(values, write, strict=True)], 1).flatten(1)
        return scores.topk(min(published.KEPT, scores.shape[1]))

    best, places = ours()
    for k, found in enumerate(published.score_nouns(values, table, rows)):
        assert torch.allclose(best[k], torch.tensor([s for _, _, s in found]), atol=1e-6)
        top = [layer * live.layout.width + neuron for layer, neuron, _ in found[:20]]
        assert top == places[k, :20].tolist()
    seconds = interleaved({"loop": lambda: published.score_nouns(values, table, rows), "ours": ours}, 7)
    neurons = f"{best.shape[1]:,} of {len(values) * live.layout.width:,} neurons kept"
    detail = f"{len(rows)} nouns, {neurons}, the loop's table made beforehand and not counted"
    report("published scoring of nouns / ours", seconds["loop"] / seconds["ours"], ">= 50", detail)


class Given(Trace):
    """A trace whose attention is made beforehand, so that what is made of it can be timed alone."""

    known: dict[int, torch.Tensor]

    def attention(self, layer: int, *, causal: bool = True, among: torch.Tensor | None = None) -> torch.Tensor:
        return self.known[layer]


def modalities(live: LiveModel, trace: Trace) -> None:
    masks = with_unions(prompt_masks(trace))
    given = Given(live, trace.batch, trace.capture, trace.items, trace.source, trace.tap)

    def attention() -> dict[int, torch.Tensor]:
        return {layer: trace.attention(layer, causal=False, among=masks["prompt"]) for layer in trace.layers}

    given.known = attended = attention()

    def loop() -> torch.Tensor:
        whole = torch.zeros(5, len(masks), len(trace.layers), live.layout.width)
        for row in range(len(trace.items)):
            for place, layer in enumerate(trace.layers):
                mine = {name: mask[row] for name, mask in masks.items()}
                whole[:, :, place] += published.importance(trace.values(layer)[row], attended[layer][row], mine)
        return whole / len(trace.items)

    def ours() -> torch.Tensor:
        given.shared.clear()  # or every repeat but the first would find the sums made
        method = miner.build(attention=True)
        method.update(given)
        return torch.stack([method.sums[r] / method.counts[r] for r in masks], 1).float()

    assert torch.allclose(loop(), ours(), atol=1e-4)
    seconds = interleaved({"loop": loop, "ours": ours, "attention": attention}, 5)
    both = (seconds["loop"] + seconds["attention"]) / (seconds["ours"] + seconds["attention"])
    detail = (
        f"{len(masks)} modalities, {len(trace.items)} samples of {trace.real.shape[1]} positions; the attention given "
        f"to both, with its time added to both: {both:.3g}"
    )
    report("published importance scores / ours", seconds["loop"] / seconds["ours"], ">= 20", detail)
    chosen = [list(masks).index(role) for role in masks if role not in ("prompt", "special_text")]
    scores = torch.einsum("m,mrln->rln", torch.tensor([0.0, 0.25, 0.25, 0.5, 0.0]), ours())[chosen]
    found = select(scores.numpy(), 0.02, "LA_MU", ties="published")
    for m, neurons in enumerate(published.select_evenly(scores, 0.02)):
        assert set(zip(*(axis.tolist() for axis in found[m].nonzero()), strict=True)) == set(neurons)
    sides = {
        "loop": lambda: published.select_evenly(scores, 0.02),
        "ours": lambda: select(scores.numpy(), 0.02, "LA_MU", ties="published"),
    }
    seconds = interleaved(sides, 7)
    report("published selection / ours", seconds["loop"] / seconds["ours"], ">= 20", f"{int(found.sum())} neurons")


def paths(trace: Trace) -> None:
    ours = PathGradients(20, "right", "predicting", "log_probability", 8192)

    def mine() -> torch.Tensor:
        return torch.stack([ours.attribute(trace, layer) for layer in trace.layers])

    assert torch.allclose(mine(), published.integrated_gradients(trace, 20), atol=1e-4)
    seconds = interleaved({"loop": lambda: published.integrated_gradients(trace, 20), "ours": mine}, 3)
    detail = f"{len(trace.items)} rows, all layers, 20 steps"
    report("published integrated gradients / ours", seconds["loop"] / seconds["ours"], ">= 10", detail)


def growth() -> None:
    """The pass with all forward-only methods over the bare one, as each of its sizes grows."""
    sizes = {"neurons": (512, 1024, 2048), "image tokens": (16, 64, 256), "rows": (4, 8, 16)}
    for name, of in {**sizes, "concepts": (1, 2, 4)}.items():
        shown = []
        for size in of:
            image = 8 * math.isqrt(size) if name == "image tokens" else 64
            live = middling_llava(size if name == "neurons" else 1024, image)
            some = items(size if name == "rows" else 8, size if name == "concepts" else 1, image)
            sides = {"bare": bare(live, some), "ours": reading(live, some, [m.build() for m in FORWARD])}
            seconds = interleaved(sides, 7)
            extra = 1000 * (seconds["ours"] - seconds["bare"])
            shown.append(f"{size}: {seconds['ours'] / seconds['bare']:.2f} (+{extra:.1f} ms)")
        print(f"forward-only methods together / bare forward by the number of {name}: {', '.join(shown)}")


def main() -> None:
    live = middling_llava()
    forward_only(live)
    overlap(live)
    gradients(live)
    with traced(live, items(BATCH), "image", layers=None, tap="product", grad=False) as trace:
        paths(trace)
    wide = middling_llava(4096)
    with traced(wide, items(BATCH), "image", layers=None, tap="product", grad=False) as trace:
        scoring(wide, trace)
    seeing = middling_llava(4096, image=224)
    with traced(seeing, items(2, image=224), "image", layers=None, tap="product", grad=False, attention=True) as trace:
        modalities(seeing, trace)
    growth()
    print(f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
