"""A job from beginning to end: plan, map, merge, write the run folder, load it in one transaction."""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from atlas.errors import AtlasError, AtlasWarning, UsageError
from atlas.live.load.checkpoints import Loading, read_config, takes
from atlas.live.model import LiveModel
from ingest import tables, zoo
from ingest.examples import BOTH, FIND, HELD_OUT, Dataset, Example, splits_of
from ingest.feed import Feed
from ingest.job import ALL, Execution, Job, open_dataset
from ingest.labels import Labelling, labels_table
from ingest.record import Record
from ingest.resolving import complete, identity, require_targets, resolved, tasks_by_source
from ingest.shards import Progress, map_all, noting_kept

TOLD = 10
"""How many concepts are named that cannot be judged."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a job. fresh: False where the same job had been done before and nothing was run."""

    run_id: str
    fresh: bool
    outcome: Mapping[str, Any]


def loading(job: Job, execution: Execution) -> Loading:
    """How the job's model is loaded."""
    return Loading(
        revision=job.revision,
        device=execution.device,
        dtype=job.dtype,
        device_map=execution.device_map,
        quantization=job.quantization or None,
        attention=execution.attention,
        trust_remote_code=execution.trust_remote_code,
    )


def load_model(job: Job, execution: Execution) -> LiveModel:
    """The job's model: an embedded one by name, else a folder or a HuggingFace id."""
    return LiveModel.load(zoo.resolve(job.model), label=job.model, **asdict(loading(job, execution)))


def completed(job: Job, dataset: Dataset, execution: Execution) -> Job:
    """`ingest.resolving.complete`, with what the job's model takes, which its config alone tells."""
    return complete(job, dataset, takes(read_config(zoo.resolve(job.model), loading(job, execution))))


def collect(job: Job, dataset: Dataset) -> list[Example]:
    """The job's examples, in a fixed order.

    Raises:
        UsageError: there are none; or a task that the dataset does not have.
    """
    found: list[Example] = []
    for (source, tasks), split in product(tasks_by_source(job, dataset).items(), splits_of(job.split)):
        found += dataset.examples(
            source=source,
            split=split,
            concepts=job.concepts,
            tasks=tasks,
            per_concept=job.per_concept,
            seed=job.seed,
        )
        if job.negatives:
            found += negatives(job, dataset, source, split, tasks)
    if not found:
        raise UsageError(
            f"the dataset {job.dataset} has no {job.split} example of {', '.join(job.concepts[:5]) or 'any concept'} "
            f"with source {' or '.join(job.sources)}; choose other --concepts, --sources or --split "
            "(`atlas concepts --dataset ...` lists what there is)"
        )
    return list({e.id: e for e in found}.values())


def asked_of(job: Job, dataset: Dataset, examples: Sequence[Example]) -> str:
    """How many of how many examples a job takes, where the dataset can tell, and of which split."""
    count = getattr(dataset, "count", None)
    there = "" if count is None else f" of {count(tasks_by_source(job, dataset), splits_of(job.split)):,}"
    split = "find and held_out" if job.split == BOTH else job.split
    return f"{len(examples):,}{there} examples of {job.dataset}, split {split}"


def negatives(job: Job, dataset: Dataset, source: str, split: str, tasks: Sequence[str]) -> list[Example]:
    """Examples of other concepts that show none of the job's, as many of each concept as can be."""
    others = [name for name in dataset.concepts if name not in job.concepts]
    each = math.ceil(job.negatives / max(1, len(others) * len(tasks)))
    found = dataset.examples(source=source, split=split, concepts=others, tasks=tasks, per_concept=each, seed=job.seed)
    clean = [e for e in found if not any(mention.concept in job.concepts for mention in e.mentions)]
    if not clean:
        raise UsageError(f"every {source} example shows one of the job's concepts; leave out --negatives")
    random.Random(f"negatives {job.seed} {source}").shuffle(clean)
    return clean[: job.negatives]


def tell_unjudged(job: Job, dataset: Dataset, examples: Sequence[Example]) -> None:
    """Warn of concepts that neurons are sought for and that the held-out split, which judges them, does not have."""
    lacking: dict[str, list[str]] = {}
    for source, tasks in tasks_by_source(job, dataset).items() if job.split == FIND else ():
        sought = {m.concept for e in examples if e.source == source for m in e.mentions} & set(job.concepts)
        held = dataset.examples(
            source=source, split=HELD_OUT, concepts=sorted(sought), tasks=tasks, per_concept=1, seed=job.seed
        )
        judged = {m.concept for e in held for m in e.mentions}
        for name in sorted(sought - judged):
            lacking.setdefault(name, []).append(source)
    if lacking:
        names = ", ".join(f"{name} ({' and '.join(sources)})" for name, sources in list(lacking.items())[:TOLD])
        more = f", and {len(lacking) - TOLD} more" if len(lacking) > TOLD else ""
        warnings.warn(
            f"no held-out examples of {names}{more}: what is found for them cannot be judged (`atlas evaluate`); "
            "about one picture or fact in five is held out, so they need more of them",
            AtlasWarning,
            stacklevel=2,
        )


def ingest(
    atlas: Path,
    job: Job,
    execution: Execution,
    progress: Progress = lambda done, total: None,
    begin: Callable[[Job, int], None] = lambda job, examples: None,
) -> Outcome:
    """Run a job into an atlas, or go on where it was interrupted; a finished job is not run again.

    begin: is told the whole job and how many examples it has, before the model is loaded.

    Raises:
        AtlasError: of any kind; what had been computed by then is kept and the next call goes on from it.
    """
    dataset = open_dataset(job)
    job = completed(job, dataset, execution)
    examples = collect(job, dataset)
    require_targets(job, examples)
    tell_unjudged(job, dataset, examples)
    begin(job, len(examples))
    live = load_model(job, execution)
    plain = resolved(job, dataset, examples, identity(live, job, dataset, examples))
    record = Record(atlas, "ingest", plain, live, dataset, execution)
    if record.begun():
        return Outcome(record.run_id, False, {})
    numbered = list(enumerate(examples))
    with noting_kept(record.folder / "shards", numbered), record.running():
        feed = Feed(live, dataset, job, bad_media=execution.bad_media, responses=record.responses)
        state = map_all(live, feed, job, execution, numbered, record.folder / "shards", progress)
        every = tables.collect_maps(state, job)
        found = tables.scored(every)
        if not found:
            record.forget_portions()  # nothing in them is worth going on from
            raise AtlasError(_nothing(feed, job, tables.without_map(every)))
        names = sorted(dataset.concepts)
        content: dict[str, Any] = {
            "examples": tables.examples_table(examples),
            "maps": tables.maps_table(record.run_id, job, found, names),
            "scores": tables.score_batches(record.run_id, job, found),
            "exemplars": tables.exemplars_table(record.run_id, live, state.exemplars, [e.id for e in examples]),
            "responses": tables.responses_table(feed.made),
        }
        if job.keep != ALL:
            content["sketches"] = tables.sketches_table(job, found)
        labelled = [some for m in state.methods.values() if isinstance(m, Labelling) for some in m.labels()]
        if labelled:
            content["labels"] = labels_table(record.run_id, labelled)
        if not record.decoded:
            content["decodings"] = tables.decodings_batches(live)
        outcome = {
            "examples": len(examples),
            "pairs": state.pairs,
            "maps": len(found),
            "empty": tables.without_map(every),
            "notes": [note for m in state.methods.values() for note in getattr(m, "notes", {}).values()],
            "skipped": feed.skipped.plain(),
        }
        return Outcome(record.run_id, True, record.finish(outcome, content))


def _nothing(feed: Feed, job: Job, empty: Mapping[str, Sequence[str]]) -> str:
    skipped = feed.skipped
    if empty:
        names = "; ".join(f"{method}: {', '.join(concepts[:TOLD])}" for method, concepts in empty.items())
        return f"no neuron has a score, so there is nothing to store ({names}); give other methods or --method-option"
    if skipped.media:
        pointer, reason = next(iter(skipped.media.items()))
        return f"no example could be used: {len(skipped.media)} media failed, the first: {pointer}: {reason}"
    if skipped.undrawn and not skipped.unmentioned:
        return (
            f"no answer to {skipped.undrawn.total()} requests has a picture; give a larger --max-new-tokens, or ask "
            "for what the model draws (`atlas generate --draw picture.png` tries one request)"
        )
    if skipped.unplaced and not skipped.unmentioned:
        names = ", ".join(f"{c} {n}x" for c, n in skipped.unplaced.most_common(5))
        return (
            f"the segmenter '{job.segmenter}' found no region of what was asked for ({names}); choose another "
            "--segmenter or --segment-option (`--segmenter none` takes whole pictures)"
        )
    lacking = ", ".join(f"{c} {n}x" for c, n in skipped.unmentioned.most_common(5))
    return (
        f"no answer mentions the words of {', '.join(job.concepts[:5])} (not in the answer: {lacking}); "
        "give other --concepts, or more examples with --per-concept"
    )
