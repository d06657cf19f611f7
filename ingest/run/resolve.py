"""A complete job: what its methods need, its tasks by source, and the hash that names its run."""

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
from ingest.data.answers import OWN
from ingest.data.counterfactuals import default_inpainter
from ingest.data.examples import IMAGE, Dataset, Example
from ingest.job import ALL, Job
from ingest.segmenters._common import Segmenter


def complete(job: Job, dataset: Dataset, takes: frozenset[str]) -> Job:
    """The job with everything filled in that was left open, in a canonical form.

    takes: the modalities that the model takes ("text", "image", ...).

    Raises:
        Unsupported: the model does not take the job's sources, or any source of the dataset.
        UsageError: a method has none of the job's reductions or sources.
    """
    sources = tuple(s for s in dataset.tasks if s in (job.sources or takes))
    if not sources or not set(sources) <= takes:
        lacking = ", ".join(s for s in sources or dataset.tasks if s not in takes)
        raise Unsupported(
            f"{job.model} takes {' and '.join(sorted(takes))}, and {dataset.name} gives {lacking}; "
            "choose another model, another dataset or other [[sources]]"
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
            raise UsageError(f"{name} has no {' or '.join(reduce)}; add {' or '.join(method.supported)} to [[reduce]]")
        if method.sources is not None and not method.sources & set(sources):
            kinds = " or ".join(sorted(method.sources))
            raise UsageError(f"{name} scores examples with source {kinds}; add it to [[sources]]")
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


def drawing_options(values: Mapping[str, Any]) -> dict[str, Any]:
    """All options for drawing pictures, from the given ones (numbers, or texts from a command line).

    Raises:
        UsageError: an unknown option, or an unusable value.
    """
    options = asdict(DrawOptions())
    for key, value in values.items():
        if key not in options:
            raise unknown("drawing option", key, options, "atlas ingest --help")
        try:
            options[key] = type(options[key])(value)
        except ValueError:
            raise UsageError(f"the drawing option {key} is '{value}'; it must be like {options[key]}") from None
    return asdict(DrawOptions(**options))


def methods(job: Job) -> dict[str, Method]:
    """New estimators for the job's methods, with the job's reductions set where they have any."""
    built: dict[str, Method] = {
        name: registry.load(ingest.methods, name).build(**parameters) for name, parameters in job.methods.items()
    }
    for method in built.values():
        if isinstance(method, PairMethod):
            method.reductions = tuple(r for r in job.reduce if r in method.supported)
    return built


def require_targets(job: Job, examples: Sequence[Example]) -> None:
    """Raise UsageError where a method of the job can explain none of the examples' answers."""
    example_targets = {example.target for example in examples}
    for name, method in methods(job).items():
        if not method.targets & example_targets:
            explained, hint = ("words", "") if IMAGE not in method.targets else ("pictures", " (scenes has draw)")
            raise UsageError(
                f"{name} explains {explained}, and no example is answered in {explained}; choose other [[tasks]]{hint}"
            )


def null_draws(job: Job) -> int:
    """How many random regions of a picture the job's methods need inpainted."""
    return max(getattr(method, "draws", 0) for method in methods(job).values())


def needs(job: Job) -> frozenset[str]:
    """What the job's shared passes must provide for its methods."""
    return frozenset().union(*(method.needs for method in methods(job).values()))


def tasks_by_source(job: Job, dataset: Dataset) -> dict[str, tuple[str, ...]]:
    """Each source's tasks: those that the job names, or the dataset's default ones where it names none.

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
    """What determines a model's numbers on these examples: the model itself and, for drawn pictures, what draws them
    and what finds concepts in them.

    Raises:
        Unsupported: the model cannot draw.
        UsageError: the segmenter does not know a requested concept.
    """
    drawn_concepts = {m.concept for e in examples if e.target == IMAGE for m in e.mentions} & set(job.concepts)
    if not drawn_concepts:
        return live.identity
    segmenter: Segmenter = registry.load(ingest.segmenters, job.segmenter).build(**job.segmenting)
    segmenter.require([dataset.concepts[name] for name in sorted(drawn_concepts)])
    weights = {"drawer": live.drawer.identity, "segmenting_weights": segmenter.identity}
    return live.identity | {name: digits for name, digits in weights.items() if digits}


def resolved(job: Job, dataset: Dataset, examples: Sequence[Example], model: Mapping[str, Any]) -> dict[str, Any]:
    """The complete job as JSON, with content in place of names.

    model: what determines its numbers (`identity`). The examples are one hash over their ids and the content of their
    media, so that a repaired or replaced picture makes another run.
    """
    digest = hashlib.sha256()
    for example in examples:
        digest.update(json.dumps([example.id, [dataset.digest(pointer) for pointer in example.media]]).encode())
    plain = asdict(job) | {"dataset_revision": dataset.revision, "examples": digest.hexdigest(), **model}
    plain["dataset"] = dataset.name  # the files' location does not change a number; their content does
    plain["model"] = plain["revision"] = None
    for options in (plain["inpainting"], plain["segmenting"]):
        options.pop("device", None)  # where a model runs does not change a number
    unused_values = {"keep": ALL, "quantization": "", "swap_answers": False, "answers": OWN, "where_named": ""}
    if not any(example.target == IMAGE for example in examples):
        unused_values |= {
            key: plain[key] for key in ("segmenter", "segmenting", "drawing")
        }  # without drawn pictures they change nothing
    for key, value in unused_values.items():  # runs from before these could be chosen keep their ids
        if plain[key] == value:
            del plain[key]
    plain["tasks"] = {source: list(tasks) for source, tasks in tasks_by_source(job, dataset).items()}
    if plugins := plugins_of(job):
        plain["plugins"] = plugins
    return json.loads(json.dumps(plain))  # type: ignore[no-any-return]


def plugins_of(job: Job) -> dict[str, Any]:
    """The distributions of the job's plug-ins (`registry.origins`): other code makes another run."""
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
