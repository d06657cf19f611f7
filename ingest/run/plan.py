"""What a job would cost, before it is run and without its weights: neurons, rows, bytes, memory, time."""

from __future__ import annotations

import time
from typing import Any

import torch

from atlas.live.draw.drawer import DrawOptions
from atlas.live.hooks import check_layers
from atlas.live.layout import Layout, locate
from atlas.live.load.checkpoints import find_device, read_config, sketch
from atlas.neurons import parse_layers
from ingest import zoo
from ingest.attribution.estimators import GRADIENT, IMAGE_TARGET, TWIN
from ingest.attribution.reductions import AUROC, BINS, COHENS_D
from ingest.data.targets import mark_words
from ingest.job import ALL, Execution, Job, kept_top, open_dataset
from ingest.run.prepare import collect, completed, loading
from ingest.run.resolve import needs, null_draws

BYTES_A_SCORE = 13
"""Measured, in the database and in Parquet together (benchmarks/scale.py)."""

SHOWN = 8
"""How many reference answers are shown."""

POSITIONS = 64
"""Assumed tokens of text in one example; the image's are added, from the model's config."""


GPU = {"float32": 8e12, "bfloat16": 120e12, "float16": 120e12}
"""Operations a second that models reach on one A100, about 40 % of its peak: assumed where there is no GPU."""


def plan(job: Job, execution: Execution) -> list[dict[str, Any]]:
    """Rows of what, how_much and reckoned_from.

    Times assume the matrix speed measured now on this machine, or for the device cuda, where this machine has none,
    that of an A100; then the first row says so.

    Raises:
        UsageError: as the job itself would, for its names.
        Unsupported: this machine has no such device.
    """
    absent = execution.device == "cuda" and not torch.cuda.is_available()
    speed = GPU.get(job.dtype, GPU["float32"]) if absent else _speed(find_device(execution.device))
    dataset = open_dataset(job)
    job = completed(job, dataset, execution)
    examples = collect(job, dataset)
    layout, parameters, image_tokens = _sketch(job, execution)
    layers = len(check_layers(layout, parse_layers(job.layers) if job.layers else None))
    neurons = layers * layout.width
    maps = len(job.methods) * len(job.sources) * len(job.concepts) * len(job.reduce)
    stored = neurons if job.keep == ALL else min(neurons, kept_top(job.keep))
    positions = POSITIONS + image_tokens
    size = {"float32": 4}.get(job.dtype, 2)
    needed = needs(job)
    twins = 1 + null_draws(job) if TWIN in needed else 0
    passes = (3.0 if GRADIENT in needed else 1.0) + twins
    operations = 2.0 * parameters * positions * len(examples)
    captured = execution.batch_size * positions * neurons * size * (1 + (GRADIENT in needed) + (twins > 0))
    sums = 8 + 8 * (COHENS_D in job.reduce) + 4 * BINS * (AUROC in job.reduce)
    accumulated = sums * neurons * len(job.methods) * len(job.sources) * len(job.concepts)
    rows = [
        ("examples", f"{len(examples):,}", f"{job.split}, at most {job.per_concept} a concept and task"),
        ("neurons", f"{neurons:,}", f"{layers} layers of {layout.width:,}"),
        ("maps", f"{maps:,}", "methods x sources x concepts x reductions, at most"),
        ("scores", f"{maps * stored:,}", "one a neuron and map" if job.keep == ALL else f"{job.keep} of each map"),
        ("disk", _bytes(maps * stored * BYTES_A_SCORE), f"{BYTES_A_SCORE} bytes a score"),
        (
            "memory",
            _bytes(parameters * size + captured + accumulated),
            "weights, one batch's values, every method's sums",
        ),
        ("passes", f"{_seconds(passes * operations / speed)}", _kinds(needed, twins)),
    ]
    if absent:
        rows.insert(0, ("device", f"{speed:.3g} operations/s", "this machine has no GPU: assumed, as of one A100"))
    if drawn := sum(example.target == IMAGE_TARGET for example in examples):
        options = DrawOptions(**job.drawing)
        steps = f"each of {options.steps} steps, {options.looks} of them looked back on, where a diffusion model draws"
        rows.append(("pictures", f"{drawn:,} to draw", f"{steps}; the time is not counted"))
    for name in ("integrated_gradients", "knowledge_neurons"):
        if name in job.methods:
            most = 3 * job.methods[name]["steps"] * operations * layers / 2
            rows.append((name, f"{_seconds(most / speed)} at most", "less where words are predicted near the end"))
    if "ablation" in job.methods:
        most = operations * neurons * 0.5
        rows.append(("ablation", f"{_seconds(most / speed)} at most", "neurons that are zero cost nothing"))
    rows += [
        ("words", text, "in brackets: what would be explained")
        for text in mark_words(examples, dataset.concepts, job.concepts, SHOWN)
    ]
    return [dict(zip(("what", "how_much", "reckoned_from"), row, strict=True)) for row in rows]


def _kinds(needed: frozenset[str], twins: int) -> str:
    backward = " and backward" if GRADIENT in needed else ""
    return f"forward{backward}" + (f", and {twins} of counterfactual pictures" if twins else "")


def _sketch(job: Job, execution: Execution) -> tuple[Layout, int, int]:
    """The model's shape from its config, with no weights: layout, parameters, tokens of one image."""

    load_options = loading(job, execution)
    config = read_config(zoo.resolve(job.model), load_options)
    with torch.device("meta"):
        model = sketch(config, load_options)
    vision = getattr(config, "vision_config", None)
    patches = 0
    if vision is not None and hasattr(vision, "patch_size") and hasattr(vision, "image_size"):
        patches = (vision.image_size // vision.patch_size) ** 2
    elif vision is not None:  # a convolutional tower
        patches = int(getattr(config, "image_seq_length", 0))
    return locate(model), sum(p.numel() for p in model.parameters()), patches


def _speed(device: torch.device) -> float:
    """Operations a second of a matrix product, measured for a tenth of a second."""
    side = torch.randn(512, 512, device=device)
    started, done = time.perf_counter(), 0
    while time.perf_counter() - started < 0.1:
        (side @ side).sum().item()
        done += 1
    return done * 2 * 512**3 / (time.perf_counter() - started)


def _bytes(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} TiB"


def _seconds(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"
