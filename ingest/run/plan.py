"""What a job would cost, before it is run and without its weights: neurons, rows, bytes, memory, time."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from atlas.errors import Unsupported
from atlas.live.draw.drawer import DrawOptions
from atlas.live.hooks import check_layers
from atlas.live.layout import Layout, locate
from atlas.live.load.checkpoints import DTYPES, find_device, read_config, sketch
from atlas.live.logit_lens import predicted_seconds
from atlas.neurons import parse_layers
from atlas.store.limited_process import NeedsMemory, TookTooLong, run_confined
from ingest import zoo
from ingest.attribution.estimators import GRADIENT, IMAGE_TARGET, TWIN
from ingest.data.examples import Example
from ingest.data.targets import mark_words
from ingest.job import ALL, Execution, Job, kept_top, open_dataset
from ingest.run import rehearse
from ingest.run.cost import Cost, whole_cost
from ingest.run.phases import ANSWERING, DECODING, ENCODING
from ingest.run.prepare import collect, completed, loading
from ingest.run.resolve import methods, needs, null_draws

BYTES_A_SCORE = 13
"""Measured, in the database and in Parquet together (benchmarks/scale.py)."""

SHOWN = 8
"""How many reference answers are shown."""

POSITIONS = 64
"""Assumed tokens of text in one example; the image's are added, from the model's config."""

GPU = {"float32": 8e12, "bfloat16": 120e12, "float16": 120e12}
"""Operations a second that models reach on one A100, about 40 % of its peak: assumed where there is no GPU."""

REHEARSAL = 900.0
"""Seconds that a rehearsal may take."""

FIRST_RUN = "all neurons as tokens, in the model's first run"

Row = tuple[str, str, str]
"""What, how much, reckoned from."""


def plan(job: Job, execution: Execution) -> list[dict[str, Any]]:
    """Rows of what, how_much and reckoned_from.

    Memory and times are measured on a rehearsal (`ingest.run.rehearse`). Where there can be none (the device is not of
    this machine, or the weights are quantised or spread over devices), the times assume the matrix speed measured now,
    or that of an A100, and a row says so.

    Raises:
        UsageError: as the job itself would, for its names.
        Unsupported: this machine has no such device.
    """
    dataset = open_dataset(job)
    job = completed(job, dataset, execution)
    examples = collect(job, dataset)
    layout, parameters, image_tokens = _sketch(job, execution)
    scored = check_layers(layout, parse_layers(job.layers) if job.layers else None)
    neurons = len(scored) * layout.width
    maps = len(job.methods) * len(job.sources) * len(job.concepts) * len(job.reduce)
    stored = neurons if job.keep == ALL else min(neurons, kept_top(job.keep))
    rows: list[Row] = [
        ("examples", f"{len(examples):,}", f"{job.split}, at most {job.per_concept} a concept and task"),
        ("neurons", f"{neurons:,}", f"{len(scored)} layers of {layout.width:,}"),
        ("maps", f"{maps:,}", "methods x sources x concepts x reductions, at most"),
        ("scores", f"{maps * stored:,}", "one a neuron and map" if job.keep == ALL else f"{job.keep} of each map"),
        ("disk", _bytes(maps * stored * BYTES_A_SCORE), f"{BYTES_A_SCORE} bytes a score"),
    ]
    words = [example for example in examples if example.target != IMAGE_TARGET]
    why = _no_rehearsal(job, execution)
    cost: Cost | None = None
    if not why and words:
        cost, why = _rehearsed(job, execution, words, layout, scored, 8.0 * neurons * maps)
    rows += (
        _measured(cost, job)
        if cost is not None
        else _assumed(job, execution, len(words), parameters, image_tokens, why)
    )
    if cost is None:
        rows.append((DECODING, _seconds(_decoding(job, execution, layout)), FIRST_RUN))
    if drawn := len(examples) - len(words):
        options = DrawOptions(**job.drawing)
        steps = f"each of {options.steps} steps, {options.looks} of them looked back on, where a diffusion model draws"
        rows.append(("pictures", f"{drawn:,} to draw", f"{steps}; the time is not counted"))
    rows += [
        ("words", text, "in brackets: what would be explained")
        for text in mark_words(examples, dataset.concepts, job.concepts, SHOWN)
    ]
    return [dict(zip(("what", "how_much", "reckoned_from"), row, strict=True)) for row in rows]


def _no_rehearsal(job: Job, execution: Execution) -> str:
    """Why the job cannot be rehearsed; "" where it can.

    Raises:
        Unsupported: this machine has no such device, and it is not a GPU.
    """
    if execution.device == "cuda" and not torch.cuda.is_available():
        return "this machine has no GPU"
    find_device(execution.device)
    if job.quantization or execution.device_map:
        return "the weights are quantised" if job.quantization else "the layers are spread over devices"
    return ""


def _rehearsed(
    job: Job, execution: Execution, examples: Sequence[Example], layout: Layout, scored: Sequence[int], sums: float
) -> tuple[Cost | None, str]:
    """The cost, or why there is none. sums: the bytes of all methods' sums, which few examples do not fill."""
    try:
        arguments = rehearse.plain(job, execution)
        rehearsed = [
            run_confined(
                "ingest.run.rehearse:rehearse", {**arguments, "depth": depth}, memory=1 << 60, seconds=REHEARSAL
            )[0]
            for depth in rehearse.DEPTHS
        ]
    except (TookTooLong, NeedsMemory, Unsupported) as error:
        return None, f"the rehearsal failed: {error}"
    counts = Counter(example.source for example in examples)
    own = Counter(example.source for example in examples if example.answer is None)
    cost = whole_cost(rehearsed, job, counts, len(layout.layers), scored, own_answers=own)
    return Cost({**cost.seconds, DECODING: _decoding(job, execution, layout)}, cost.memory + sums), ""


def _measured(cost: Cost, job: Job) -> list[Row]:
    rows = [("memory", _bytes(cost.memory), "measured on one and two layers of the same widths")]
    named = {ANSWERING: "at most: as many tokens as answers may have", ENCODING: "opening media, tokens"}
    named[DECODING] = FIRST_RUN
    named["ablation"] = "at most: neurons that are zero cost nothing"
    twins = f"with {1 + null_draws(job)} passes over counterfactual pictures"
    named |= {name: twins for name, method in methods(job).items() if TWIN in method.needs}
    for name, seconds in sorted(cost.seconds.items(), key=lambda item: -item[1]):
        if seconds >= 0.001 and not name.startswith("*"):
            rows.append((name, _seconds(seconds), named.get(name, "measured on one and two layers")))
    return [*rows, ("time", _seconds(sum(cost.seconds.values())), "the sum, without loading the model")]


def _assumed(job: Job, execution: Execution, examples: int, parameters: int, image_tokens: int, why: str) -> list[Row]:
    """Memory of the weights, and times from the operations alone."""
    if not examples:
        return []
    absent = execution.device == "cuda" and not torch.cuda.is_available()
    speed = GPU.get(job.dtype, GPU["float32"]) if absent else _speed(find_device(execution.device))
    whose = "assumed, as of one A100" if absent else "measured now, of a matrix product"
    needed = needs(job)
    twins = 1 + null_draws(job) if TWIN in needed else 0
    passes = (3.0 if GRADIENT in needed else 1.0) + twins
    operations = 2.0 * parameters * (POSITIONS + image_tokens) * examples
    size = {"8bit": 1, "4bit": 0.5}.get(job.quantization, 4 if job.dtype == "float32" else 2)
    kinds = "forward" + (" and backward" if GRADIENT in needed else "")
    return [
        ("speed", f"{speed:.3g} operations/s", f"{whose}; {why}, so nothing is rehearsed"),
        ("memory", f"more than {_bytes(parameters * size)}", "the weights alone"),
        ("passes", f"more than {_seconds(passes * operations / speed)}", f"{kinds}, without what methods add"),
    ]


def _decoding(job: Job, execution: Execution, layout: Layout) -> float:
    """Seconds that decoding all neurons takes: measured on a part of it, or for an absent GPU by its products alone."""
    neurons = len(layout.layers) * layout.width
    if execution.device == "cuda" and not torch.cuda.is_available():
        return 2.0 * neurons * layout.d_model * layout.vocabulary / GPU.get(job.dtype, GPU["float32"])
    dtype = DTYPES.get(job.dtype, torch.float32)
    return predicted_seconds(neurons, layout.d_model, layout.vocabulary, find_device(execution.device), dtype)


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
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"
