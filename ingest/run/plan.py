"""What a job would cost, before it is run and without its weights: neurons, rows, bytes, memory, time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from atlas.errors import AtlasError, UsageError
from atlas.live.draw.drawer import DrawOptions
from atlas.live.hooks import check_layers
from atlas.live.layout import Layout, locate
from atlas.live.load.checkpoints import find_device, read_config, sketch
from atlas.live.load.load_errors import explain_load_errors, first_line
from atlas.live.logit_lens import predicted_bytes, predicted_seconds
from atlas.neurons import parse_layers
from atlas.store.limited_process import run_confined
from ingest import zoo
from ingest.attribution.estimators import FAR_CELLS, IMAGE_TARGET, TWIN
from ingest.data.examples import Example
from ingest.data.targets import mark_words
from ingest.job import ALL, Execution, Job, kept_top
from ingest.run import rehearse
from ingest.run.assumed_cost import GPU, absent_gpu, assumed_cost
from ingest.run.cost import Cost, Work, whole_cost
from ingest.run.map_step import portions
from ingest.run.phases import ANSWERING, DECODING, ENCODING, LOADING
from ingest.run.prepare import loading
from ingest.run.reading import reading_seconds
from ingest.run.resolve import methods, null_draws
from ingest.run.samples import batches_of, choose_samples
from ingest.run.session import prepare_job
from ingest.run.shallow import precision
from ingest.run.swapped_answers import swapped_counts

BYTES_A_SCORE = 13
"""Measured, in the database and in Parquet together (benchmarks/scale.py)."""

SHOWN = 8
"""How many reference answers are shown."""

REHEARSAL = 900.0
"""Seconds that a rehearsal may take."""

FIRST_RUN = "all neurons as tokens, in the model's first run"

Row = tuple[str, str, str]
"""What, how much, reckoned from."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A job's sizes: the model's layout, parameters, precision and tokens of one image, the layers that are scored, and
    the maps, at most."""

    layout: Layout
    parameters: int
    dtype: torch.dtype
    image_tokens: int
    scored: Sequence[int]
    maps: int

    @property
    def neurons(self) -> int:
        """Those that are scored."""
        return len(self.scored) * self.layout.width


def plan(job: Job, execution: Execution, *, candidates: int | None = None) -> list[dict[str, Any]]:
    """Rows of what, how_much and reckoned_from.

    Memory and times are measured on a rehearsal (`ingest.run.rehearse`). Where there can be none (the device is not of
    this machine, the weights are quantised or spread over devices, there is no tokenizer), the times assume the matrix
    speed measured now, or that of an A100, and a row says so. candidates: how many neurons a second run scores, after
    one that found them (and has decoded the model's neurons).

    Raises:
        UsageError: as the job itself would, for its names.
        Unsupported: this machine has no such device.
    """
    prepared = prepare_job(job, execution)
    job, examples = prepared.job, prepared.examples
    shape = sketch_shape(job, execution)
    decoded = candidates is not None
    rows = _sizes(job, examples, shape, candidates)
    cost, why = None, _no_rehearsal(job, execution)
    words = [example for example in examples if example.target != IMAGE_TARGET]
    if not why and words:
        cost, why = _rehearsed(job, execution, examples, shape, decoded)
    rows += _measured(cost, job, examples) if cost else _assumed(job, execution, len(words), shape, why)
    if cost is None and not decoded:
        rows.append((DECODING, shown_seconds(_decoding(execution, shape)), FIRST_RUN))
    if drawn := len(examples) - len(words):
        options = DrawOptions(**job.drawing)
        steps = f"each of {options.steps} steps, {options.looks} of them looked back on, where a diffusion model draws"
        rows.append(("pictures", f"{drawn:,} to draw", f"{steps}; the time is not counted"))
    rows += [
        ("words", text, "in brackets: what would be explained")
        for text in mark_words(examples, prepared.dataset.concepts, job.concepts, SHOWN)
    ]
    return [dict(zip(("what", "how_much", "reckoned_from"), row, strict=True)) for row in rows]


def _sizes(job: Job, examples: Sequence[Example], shape: Shape, candidates: int | None) -> list[Row]:
    neurons, of = shape.neurons, f"{len(shape.scored)} layers of {shape.layout.width:,}"
    if candidates is not None:
        neurons, of = candidates, f"candidates, at most, of {neurons:,}"
    stored = shape.maps * (neurons if job.keep == ALL else min(neurons, kept_top(job.keep)))
    return [
        ("examples", f"{len(examples):,}", f"{job.split}, at most {job.per_concept} a concept and task"),
        ("neurons", f"{neurons:,}", of),
        ("maps", f"{shape.maps:,}", "methods x sources x concepts x reductions, at most"),
        ("scores", f"{stored:,}", "one a neuron and map" if job.keep == ALL else f"{job.keep} of each map"),
        ("disk", shown_bytes(stored * BYTES_A_SCORE), f"{BYTES_A_SCORE} bytes a score"),
    ]


def _no_rehearsal(job: Job, execution: Execution) -> str:
    """Why the job cannot be rehearsed; "" where it can.

    Raises:
        Unsupported: this machine has no such device, and it is not a GPU.
    """
    if absent_gpu(execution):
        return "this machine has no GPU"
    find_device(execution.device)
    if job.quantization or execution.device_map:
        return "the weights are quantised" if job.quantization else "the layers are spread over devices"
    return ""


def _rehearsed(
    job: Job, execution: Execution, examples: Sequence[Example], shape: Shape, decoded: bool
) -> tuple[Cost | None, str]:
    """The cost, or why there is none.

    Raises:
        UsageError: as the job itself would.
    """
    arguments = rehearse.plain(job, execution) | {"scored": list(shape.scored)}
    work = work_of(job, execution, examples, shape, decoded)
    try:
        depths = rehearse.depths(job, work.layers)
        arguments["batches"] = size, _ = batches_of(job, execution, max(depths))
        arguments["samples"] = choose_samples(examples, size)
        rehearsed = [
            run_confined(
                "ingest.run.rehearse:rehearse", {**arguments, "depth": depth}, memory=1 << 60, seconds=REHEARSAL
            )[0]
            for depth in depths
        ]
        cost = whole_cost(rehearsed, job, work)
    except UsageError:
        raise
    except (AtlasError, OSError, RuntimeError, ValueError) as error:  # of a child that was killed, too
        return None, f"the rehearsal failed: {first_line(error)}"
    if not cost.memory:
        return None, f"nothing could be rehearsed: {next(iter(cost.uncounted.values()))}"
    seconds = dict(cost.seconds)
    seconds[LOADING] += reading_seconds(job, shape.parameters, shape.dtype)
    if not decoded:
        seconds[DECODING] = _decoding(execution, shape)
    memory = _peak(cost, job, execution, work.portions, shape)
    return Cost(seconds, memory, cost.weights, cost.sums, cost.uncounted), ""


def work_of(job: Job, execution: Execution, examples: Sequence[Example], shape: Shape, decoded: bool) -> Work:
    """How much the job has to do with examples that are answered in words."""
    words = [example for example in examples if example.target != IMAGE_TARGET]
    swapped: Counter[str] = Counter()
    cut = portions(list(enumerate(examples)))
    for portion in cut if job.swap_answers else ():
        swapped += swapped_counts(portion)
    return Work(
        examples=Counter(example.source for example in words),
        parameters=shape.parameters,
        layers=len(shape.layout.layers),
        width=shape.layout.width,
        scored=shape.scored,
        batch_size=execution.batch_size,
        own=Counter(example.source for example in words if example.answer is None),
        swapped=swapped,
        portions=len(cut),
        decoded=decoded,
    )


def _peak(cost: Cost, job: Job, execution: Execution, count: int, shape: Shape) -> float:
    """Bytes in use at most: while examples are scored, at the end of a portion, or while neurons are decoded.

    count: of portions. Sums are held of the one that is scored and of those before it; at its end they are copied into
    a file, or read back. The maps made of them are in float32.
    """
    device, earlier = find_device(execution.device), count > 1
    every = len(shape.layout.layers) * shape.layout.width
    decoding = predicted_bytes(every, shape.layout.d_model, shape.layout.vocabulary, device, shape.dtype)
    if device.type == "cuda":  # which has few of the sums, and no copy
        near = min(cost.sums, 8.0 * FAR_CELLS * len(job.methods))
        return max(cost.memory + near, cost.weights + decoding)
    maps = 4.0 * shape.maps * shape.neurons
    scoring, stored = cost.memory + (1 + earlier) * cost.sums, cost.weights + (2 + earlier) * cost.sums
    return max(scoring, stored, cost.weights + cost.sums + maps + decoding)


def _measured(cost: Cost, job: Job, examples: Sequence[Example]) -> list[Row]:
    rows = [("memory", shown_bytes(cost.memory), "measured on one and two layers of the same widths")]
    for source, why in cost.uncounted.items():
        count = sum(example.source == source and example.target != IMAGE_TARGET for example in examples)
        rows.append(("not counted", f"{count:,} {source} examples", f"none that was rehearsed could be used: {why}"))
    named = {ANSWERING: "at most: as many tokens as answers may have", ENCODING: "opening media, tokens"}
    named |= {DECODING: FIRST_RUN, LOADING: "reading, checking and hashing the weights"}
    named["ablation"] = "at most: neurons that are zero cost nothing"
    twins = f"with {1 + null_draws(job)} passes over counterfactual pictures"
    named |= {name: twins for name, method in methods(job).items() if TWIN in method.needs}
    for name, seconds in sorted(cost.seconds.items(), key=lambda item: -item[1]):
        if seconds >= 0.001:
            rows.append((name, shown_seconds(seconds), named.get(name, "measured on one and two layers")))
    return [*rows, ("time", shown_seconds(sum(cost.seconds.values())), "the sum")]


def _assumed(job: Job, execution: Execution, examples: int, shape: Shape, why: str) -> list[Row]:
    """Memory of the weights, and times from the operations alone."""
    if not examples:
        return []
    assumed = assumed_cost(job, execution, shape.dtype, examples, shape.parameters, shape.image_tokens)
    return [
        ("speed", f"{assumed.speed:.3g} operations/s", f"{assumed.whose}; {why}, so nothing is rehearsed"),
        ("memory", f"more than {shown_bytes(assumed.memory)}", "the weights alone"),
        ("passes", f"more than {shown_seconds(assumed.passes)}", f"{assumed.kinds}, without what methods add"),
    ]


def _decoding(execution: Execution, shape: Shape) -> float:
    """Seconds that decoding all neurons takes: measured on a part of it, or for an absent GPU by its products alone."""
    layout = shape.layout
    neurons = len(layout.layers) * layout.width
    if absent_gpu(execution):
        return 2.0 * neurons * layout.d_model * layout.vocabulary / GPU[shape.dtype]
    device = find_device(execution.device)
    return predicted_seconds(neurons, layout.d_model, layout.vocabulary, device, shape.dtype)


def sketch_shape(job: Job, execution: Execution) -> Shape:
    """The sizes of a complete job, from the model's config, with no weights."""
    load_options, name = loading(job, execution), zoo.resolve(job.model)
    config = read_config(name, load_options)
    with explain_load_errors(name), torch.device("meta"):
        model = sketch(config, load_options)
    vision = getattr(config, "vision_config", None)
    patches = 0
    if vision is not None and hasattr(vision, "patch_size") and hasattr(vision, "image_size"):
        patches = (vision.image_size // vision.patch_size) ** 2
    elif vision is not None:  # a convolutional tower
        patches = int(getattr(config, "image_seq_length", 0))
    layout = locate(model)
    scored = check_layers(layout, parse_layers(job.layers) if job.layers else None)
    maps = len(job.methods) * len(job.sources) * len(job.concepts) * len(job.reduce)
    parameters = sum(p.numel() for p in model.parameters())
    return Shape(layout, parameters, precision(job, config), patches, scored, maps)


def shown_bytes(count: float) -> str:
    """Bytes in a unit that suits them."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} TiB"


def shown_seconds(seconds: float) -> str:
    """Seconds in a unit that suits them."""
    if seconds < 120:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"
