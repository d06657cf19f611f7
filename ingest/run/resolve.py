"""A job with everything filled in: what its methods need, its tasks by source, and the hash that names its run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import ingest.datasets
import ingest.inpainters
import ingest.methods
import ingest.segmenters
from atlas import registry
from atlas.errors import Unsupported, UsageError, unknown
from atlas.live.draw.drawer import DrawOptions
from atlas.live.model import LiveModel
from atlas.neurons import parse_layers
from ingest.attribution.estimators import TWIN, Method, PairMethod
from ingest.attribution.reductions import REDUCTIONS
from ingest.data.counterfactuals import default_inpainter
from ingest.data.examples import IMAGE, Dataset, Example
from ingest.job import ALL, Job
from ingest.segmenters._common import Segmenter


def complete(job: Job, dataset: Dataset, takes: frozenset[str]) -> Job:
    """The job with everything that was left to the dataset filled in, and written in one way only.

    takes: what the model can be shown ("text", "image", ...).

    Raises:
        Unsupported: the model does not take what the job names, or anything that the dataset has.
    """
    sources = tuple(s for s in dataset.tasks if s in (job.sources or takes))
    if not sources or not set(sources) <= takes:
        lacking = ", ".join(s for s in sources or dataset.tasks if s not in takes)
        raise Unsupported(
            f"{job.model} takes {' and '.join(sorted(takes))}, and {dataset.name} gives {lacking}; "
            "choose another model, another dataset or other --sources"
        )
    layers = ",".join(map(str, parse_layers(job.layers))) if job.layers else ""
    reduce = tuple(r for r in REDUCTIONS if r in job.reduce)
    concepts = tuple(sorted(set(job.concepts or dataset.concepts)))
    inpainter, options = "", {}
    if TWIN in needs(job):
        inpainter = job.inpainter or default_inpainter(dataset)
        options = registry.resolve(inpainter, registry.load(ingest.inpainters, inpainter).build, job.inpainting)
    for name, method in methods(job).items():
        if isinstance(method, PairMethod) and not method.reductions:
            raise UsageError(f"{name} has no {' or '.join(reduce)}; add {' or '.join(method.supported)} to --reduce")
        if method.sources is not None and not method.sources & set(sources):
            raise UsageError(f"{name} scores examples with {' or '.join(sorted(method.sources))}; add it to --sources")
    segmenter = job.segmenter or str(getattr(dataset, "segmenter", "none"))
    return replace(
        job,
        segmenter=segmenter,
        segmenting=registry.resolve(segmenter, registry.load(ingest.segmenters, segmenter).build, job.segmenting),
        drawing=drawing_options(job.drawing),
        concepts=concepts,
        sources=sources,
        layers=layers,
        reduce=reduce,
        inpainter=inpainter,
        inpainting=options,
    )


def drawing_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """How pictures are drawn, whole, from what was given (numbers, or texts of a command line).

    Raises:
        UsageError: an unknown option, or a value that makes no picture.
    """
    whole = asdict(DrawOptions())
    for key, value in given.items():
        if key not in whole:
            raise unknown("drawing option", key, whole, "atlas ingest --help")
        try:
            whole[key] = type(whole[key])(value)
        except ValueError:
            raise UsageError(f"the drawing option {key} is '{value}'; it must be like {whole[key]}") from None
    return asdict(DrawOptions(**whole))


def methods(job: Job) -> dict[str, Method]:
    """The job's methods, empty, with its reductions set where they have any."""
    built: dict[str, Method] = {
        name: registry.load(ingest.methods, name).build(**given) for name, given in job.methods.items()
    }
    for method in built.values():
        if isinstance(method, PairMethod):
            method.reductions = tuple(r for r in job.reduce if r in method.supported)
    return built


def require_targets(job: Job, examples: Sequence[Example]) -> None:
    """Raise UsageError where a method of the job can explain none of what the examples ask for."""
    asked = {example.target for example in examples}
    for name, method in methods(job).items():
        if not method.targets & asked:
            wanted, hint = ("words", "") if IMAGE not in method.targets else ("pictures", " (scenes has draw)")
            raise UsageError(f"{name} explains {wanted}, and no example is answered so; choose other --tasks{hint}")


def null_draws(job: Job) -> int:
    """How many random regions of a picture the job's methods want inpainted."""
    return max(getattr(method, "draws", 0) for method in methods(job).values())


def needs(job: Job) -> frozenset[str]:
    """What the job's shared passes must provide for its methods."""
    return frozenset().union(*(method.needs for method in methods(job).values()))


def tasks_by_source(job: Job, dataset: Dataset) -> dict[str, tuple[str, ...]]:
    """The tasks the job names, where a source has them; the dataset's default ones where it names none.

    Raises:
        UsageError: a task that no source of the job has.
    """
    known = {task for source in job.sources for task in dataset.all_tasks[source]}
    for task in job.tasks:
        if task not in known:
            raise unknown("task", task, known, "atlas datasets")
    named = {s: tuple(t for t in job.tasks if t in dataset.all_tasks[s]) for s in job.sources}
    return named if job.tasks else {s: dataset.tasks[s] for s in job.sources}


def identity(live: LiveModel, job: Job, dataset: Dataset, examples: Sequence[Example]) -> dict[str, str]:
    """What decides the numbers of a model that is asked these: itself and, for pictures, what draws them and what finds
    concepts in them.

    Raises:
        Unsupported: it draws nothing. UsageError: the segmenter knows nothing of what is asked for.
    """
    asked = {m.concept for e in examples if e.target == IMAGE for m in e.mentions} & set(job.concepts)
    if not asked:
        return live.identity
    segmenter: Segmenter = registry.load(ingest.segmenters, job.segmenter).build(**job.segmenting)
    segmenter.require([dataset.concepts[name] for name in sorted(asked)])
    beside = {"drawer": live.drawer.identity, "segmenting_weights": segmenter.identity}
    return live.identity | {name: digits for name, digits in beside.items() if digits}


def resolved(job: Job, dataset: Dataset, examples: Sequence[Example], model: Mapping[str, Any]) -> dict[str, Any]:
    """The complete job as JSON, with content in place of names.

    model: what decides its numbers (`identity`). The examples stand as one hash over their ids and the
    content of their media, so that a picture that was mended or replaced makes another run.
    """
    digest = hashlib.sha256()
    for example in examples:
        digest.update(json.dumps([example.id, [dataset.digest(pointer) for pointer in example.media]]).encode())
    plain = asdict(job) | {"dataset_revision": dataset.revision, "examples": digest.hexdigest(), **model}
    plain["dataset"] = dataset.name  # where the files lie does not change a number; their content does
    plain["model"] = plain["revision"] = None
    for options in (plain["inpainting"], plain["segmenting"]):
        options.pop("device", None)  # where a model runs decides nothing
    unset = {"keep": ALL, "quantization": "", "swap_answers": False}
    if not any(example.target == IMAGE for example in examples):
        unset |= {key: plain[key] for key in ("segmenter", "segmenting", "drawing")}  # they change nothing
    for key, value in unset.items():  # runs from before these could be chosen keep their ids
        if plain[key] == value:
            del plain[key]
    plain["tasks"] = {source: list(tasks) for source, tasks in tasks_by_source(job, dataset).items()}
    if used := plugins_of(job):
        plain["plugins"] = used
    return json.loads(json.dumps(plain))  # type: ignore[no-any-return]


def plugins_of(job: Job) -> dict[str, Any]:
    """Which distributions the job's plug-ins are from (`registry.origins`): another code is another run."""
    return registry.origins(
        {
            ingest.methods: job.methods,
            ingest.datasets: [job.dataset.partition(":")[0]],
            ingest.inpainters: [job.inpainter],
            ingest.segmenters: [job.segmenter],
        }
    )


def run_id(resolved_job: Mapping[str, Any]) -> str:
    """32 hex digits of the resolved job."""
    text = json.dumps(resolved_job, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
