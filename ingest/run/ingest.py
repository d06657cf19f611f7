"""A job from beginning to end: plan, map, merge, write the run folder, load it in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atlas.errors import AtlasError
from ingest.attribution.labels import Labelling, labels_table
from ingest.job import ALL, Execution, Job, open_dataset
from ingest.run import arrow_tables
from ingest.run.encode_examples import ExampleEncoder
from ingest.run.map_step import Progress, map_all, noting_kept
from ingest.run.prepare import TOLD, collect, completed, load_model, tell_unjudged
from ingest.run.record import Record
from ingest.run.resolve import identity, require_targets, resolved


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a job. fresh: False where the same job had been done before and nothing was run."""

    run_id: str
    fresh: bool
    outcome: Mapping[str, Any]


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
        feed = ExampleEncoder(live, dataset, job, bad_media=execution.bad_media, responses=record.responses)
        state = map_all(live, feed, job, execution, numbered, record.folder / "shards", progress)
        every = arrow_tables.collect_maps(state, job)
        found = arrow_tables.scored(every)
        if not found:
            record.forget_portions()  # nothing in them is worth going on from
            raise AtlasError(_nothing(feed, job, arrow_tables.without_map(every)))
        names = sorted(dataset.concepts)
        content: dict[str, Any] = {
            "examples": arrow_tables.examples_table(examples),
            "maps": arrow_tables.maps_table(record.run_id, job, found, names),
            "scores": arrow_tables.score_batches(record.run_id, job, found),
            "exemplars": arrow_tables.exemplars_table(record.run_id, live, state.exemplars, [e.id for e in examples]),
            "responses": arrow_tables.responses_table(feed.made),
        }
        if job.keep != ALL:
            content["sketches"] = arrow_tables.sketches_table(job, found)
        labelled = [some for m in state.methods.values() if isinstance(m, Labelling) for some in m.labels()]
        if labelled:
            content["labels"] = labels_table(record.run_id, labelled)
        if not record.decoded:
            content["decodings"] = arrow_tables.decodings_batches(live)
        outcome = {
            "examples": len(examples),
            "pairs": state.pairs,
            "maps": len(found),
            "empty": arrow_tables.without_map(every),
            "notes": [note for m in state.methods.values() for note in getattr(m, "notes", {}).values()],
            "skipped": feed.skipped.plain(),
        }
        return Outcome(record.run_id, True, record.finish(outcome, content))


def _nothing(feed: ExampleEncoder, job: Job, empty: Mapping[str, Sequence[str]]) -> str:
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
