"""What a job needs before its first pass: its defaults, its examples, its model."""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from itertools import product
from typing import Any

from atlas.errors import AtlasWarning, UsageError
from atlas.live.load.checkpoints import Loading, read_config, takes
from atlas.live.model import LiveModel
from ingest import zoo
from ingest.data.answers import REFERENCE, with_references
from ingest.data.examples import BOTH, FIND, HELD_OUT, MISSING, BadMedia, Dataset, Example, splits_of
from ingest.data.where_named import named_examples
from ingest.job import Execution, Job, ModelSpec
from ingest.run.regions import require_places
from ingest.run.resolve import complete, tasks_by_source

SHOWN = 10
"""How many concepts a message names."""


def loading(spec: ModelSpec, execution: Execution) -> Loading:
    """The options with which a model is loaded."""
    return Loading(
        revision=spec.revision,
        device=execution.device,
        dtype=spec.dtype,
        device_map=execution.device_map,
        quantization=spec.quantization or None,
        attention=execution.attention,
        trust_remote_code=execution.trust_remote_code,
    )


def load_model(spec: ModelSpec, execution: Execution) -> LiveModel:
    """The live model of a spec: an embedded one by name, else a folder or a HuggingFace id."""
    return LiveModel.load(zoo.resolve(spec.model), label=spec.model, **asdict(loading(spec, execution)))


def completed(job: Job, dataset: Dataset, execution: Execution) -> Job:
    """The complete job (see `ingest.run.resolve.complete`), with the model's modalities read from its config.

    Raises:
        Unsupported: a method lays image tokens on the picture, and the model's have no place there.
    """
    config = read_config(zoo.resolve(job.model), loading(job, execution))
    require_places(job, config)
    return complete(job, dataset, takes(config))


def collect(job: Job, dataset: Dataset) -> list[Example]:
    """The job's examples, in a fixed order.

    Raises:
        UsageError: there are none, or the dataset does not have a task.
    """
    collected: list[Example] = []
    for (source, tasks), split in product(tasks_by_source(job, dataset).items(), splits_of(job.split)):
        which: dict[str, Any] = {"source": source, "split": split, "concepts": job.concepts, "tasks": tasks}
        which |= {"per_concept": job.per_concept, "seed": job.seed}
        collected += _examples(dataset, job, **which)
        if job.negatives:
            collected += negatives(job, dataset, source, split, tasks)
    if job.answers == REFERENCE:
        collected = with_references(collected, dataset.concepts, job.concepts)
    if not collected:
        names = ", ".join(job.concepts[:5]) or "any concept"
        names += f" that names it in the {job.where_named}" if job.where_named else ""
        raise UsageError(
            f"the dataset {job.dataset} has no {job.split} example of {names} "
            f"with source {' or '.join(job.sources)}; choose other [[concepts]], [[sources]] or [[split]] "
            "(`atlas concepts --dataset ...` lists what there is)"
        )
    return list({e.id: e for e in collected}.values())


def _examples(dataset: Dataset, job: Job, **which: Any) -> list[Example]:
    """`Dataset.examples`, by where they name the concept if the job says so."""
    return named_examples(dataset, job.where_named, **which) if job.where_named else dataset.examples(**which)


def tell_missing_media(dataset: Dataset, examples: Sequence[Example]) -> None:
    """Warn of media that are not there, or that the dataset may not read, before a model is loaded for them.

    Raises:
        UsageError: no example has its media.
    """
    pointers = {pointer: example.source for example in examples for pointer in example.media}
    missing = [pointer for pointer in pointers if dataset.digest(pointer) == MISSING]
    if not missing:
        return
    first = missing[0]
    try:
        getattr(dataset, pointers[first])(first)
        reason = "missing"
    except BadMedia as error:
        reason = str(error)
    if all(set(example.media) & set(missing) for example in examples):
        raise UsageError(f"no example could be used: {len(missing)} media are missing, the first: {first}: {reason}")
    warnings.warn(
        f"{len(missing)} of {len(pointers)} media are missing, and their examples will be skipped; the first: {first}: "
        f"{reason}",
        AtlasWarning,
        stacklevel=3,
    )


def describe_examples(job: Job, dataset: Dataset, examples: Sequence[Example]) -> str:
    """How many examples a job takes, of how many where the dataset can tell, and of which split."""
    count = getattr(dataset, "count", None)
    of_total = "" if count is None else f" of {count(tasks_by_source(job, dataset), splits_of(job.split)):,}"
    split = "find and held_out" if job.split == BOTH else job.split
    answers = ", reference answers" if job.answers == REFERENCE else ""
    return f"{len(examples):,}{of_total} examples of {job.dataset}, split {split}{answers}"


def negatives(job: Job, dataset: Dataset, source: str, split: str, tasks: Sequence[str]) -> list[Example]:
    """Examples of other concepts that show none of the job's, spread evenly over the other concepts.

    Raises:
        UsageError: every example shows one of the job's concepts."""
    others = [name for name in dataset.concepts if name not in job.concepts]
    each = math.ceil(job.negatives / max(1, len(others) * len(tasks)))
    candidates = dataset.examples(
        source=source, split=split, concepts=others, tasks=tasks, per_concept=each, seed=job.seed
    )
    unrelated = [e for e in candidates if not any(mention.concept in job.concepts for mention in e.mentions)]
    if not unrelated:
        raise UsageError(f"every {source} example shows one of the job's concepts; leave out [[negatives]]")
    random.Random(f"negatives {job.seed} {source}").shuffle(unrelated)
    return unrelated[: job.negatives]


def warn_unjudged(job: Job, dataset: Dataset, examples: Sequence[Example]) -> None:
    """Warn of concepts of the job without held-out examples, on which what is found could be judged."""
    lacking: dict[str, list[str]] = {}
    for source, tasks in tasks_by_source(job, dataset).items() if job.split == FIND else ():
        searched = {m.concept for e in examples if e.source == source for m in e.mentions} & set(job.concepts)
        which: dict[str, Any] = {"source": source, "split": HELD_OUT, "concepts": sorted(searched), "tasks": tasks}
        held_out = _examples(dataset, job, **which, per_concept=1, seed=job.seed)
        judged = {m.concept for e in held_out for m in e.mentions}
        for name in sorted(searched - judged):
            lacking.setdefault(name, []).append(source)
    if lacking:
        names = ", ".join(f"{name} ({' and '.join(sources)})" for name, sources in list(lacking.items())[:SHOWN])
        remainder = f", and {len(lacking) - SHOWN} more" if len(lacking) > SHOWN else ""
        warnings.warn(
            f"no held-out examples of {names}{remainder}: what is found for them cannot be judged (`atlas evaluate`); "
            "about one picture or fact in five is held out, so they need more of them",
            AtlasWarning,
            stacklevel=2,
        )
