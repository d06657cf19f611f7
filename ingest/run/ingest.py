"""A job from beginning to end: plan, map, merge, write the run folder and load it in one transaction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atlas.errors import AtlasError
from ingest.attribution.estimators import REGION, NeuronMap
from ingest.attribution.labels import Labelling, labels_table
from ingest.job import ALL, Execution, Job
from ingest.run import arrow_tables
from ingest.run.decodings import decode_neurons, decodings_batches
from ingest.run.encode_examples import ExampleEncoder
from ingest.run.map_step import Progress, State, map_all
from ingest.run.phases import DECODING, LOADING, WRITING, Phases
from ingest.run.prepare import SHOWN, load_model, warn_unjudged
from ingest.run.resolve import identity, needs, require_targets
from ingest.run.session import ModelSession, prepare_job, run_of


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a job. fresh: False where the same job had been done before and nothing was run."""

    run_id: str
    fresh: bool
    outcome: Mapping[str, Any]


def ingest(
    atlas: Path,
    job: Job,
    execution: Execution,
    progress: Progress = lambda done, total: None,
    begin: Callable[[Job, int], None] = lambda job, examples: None,
    phase: Callable[[str], None] = lambda name: None,
) -> Outcome:
    """Run a job into an atlas, or resume it where it was interrupted; a finished job is not run again.

    begin: called with the complete job and the number of its examples before the model is loaded. phase: called with ""
    before the examples, which `progress` counts, and with DECODING before the model's neurons are decoded by layers.

    Raises:
        AtlasError: of any kind; what was computed is kept, and the next call resumes from it.
    """
    prepared = prepare_job(job, execution)
    job, examples = prepared.job, prepared.examples
    require_targets(job, examples)
    warn_unjudged(job, prepared.dataset, examples)
    begin(job, len(examples))
    phases = Phases()
    with phases.phase(LOADING):
        live = load_model(job, execution)
        model_identity = identity(live, job, prepared.dataset, examples)
    with run_of(atlas, "ingest", prepared, live, execution, identity=model_identity, resumes=True) as run:
        if run.done:
            return Outcome(run.run_id, False, {})
        phase("")
        state = map_all(live, run.encoder, job, execution, prepared.numbered, run.portions, progress)
        run.phases.update(phases + state.phases)
        with run.phases.phase(WRITING):
            all_maps = arrow_tables.collect_maps(state, job)
        scored_maps = arrow_tables.with_scores(all_maps)
        empty = arrow_tables.concepts_without_map(all_maps)
        if not scored_maps:
            run.record.forget_portions()  # resuming from them would fail again
            raise AtlasError(_no_scores(run.encoder, job, empty))
        notes = [note for m in state.methods.values() for note in getattr(m, "notes", {}).values()]
        outcome = {"pairs": state.pairs, "maps": len(scored_maps), "empty": empty, "notes": notes}
        with run.phases.phase(WRITING):
            tables = _tables(run, state, scored_maps)
        if not run.record.decoded:
            phase(DECODING)
            with run.phases.phase(DECODING):
                decoded = decode_neurons(live, progress)
            outcome["decoding"] = decoded.facts
            tables["decodings"] = decodings_batches(live, decoded)
        return Outcome(run.run_id, True, run.finish(outcome, tables))


def _tables(run: ModelSession, state: State, scored_maps: Sequence[tuple[str, NeuronMap]]) -> dict[str, Any]:
    """The run's tables besides its examples, answers and the model's tokens."""
    job, examples = run.prepared.job, run.prepared.examples
    names = sorted(run.prepared.dataset.concepts)
    tables: dict[str, Any] = {
        "maps": arrow_tables.maps_table(run.run_id, job, scored_maps, names),
        "scores": arrow_tables.score_batches(run.run_id, job, scored_maps),
        "exemplars": arrow_tables.exemplars_table(run.run_id, run.live, state.exemplars, [e.id for e in examples]),
    }
    if job.keep != ALL:
        tables["sketches"] = arrow_tables.sketches_table(job, scored_maps)
    labelled = [row for m in state.methods.values() if isinstance(m, Labelling) for row in m.labels()]
    if labelled:
        tables["labels"] = labels_table(run.run_id, labelled)
    return tables


def _no_scores(encoder: ExampleEncoder, job: Job, empty: Mapping[str, Sequence[str]]) -> str:
    """Why no neuron has a score, and what to change."""
    skipped = encoder.skipped
    if empty:
        names = "; ".join(f"{method}: {', '.join(concepts[:SHOWN])}" for method, concepts in empty.items())
        return f"no neuron has a score, so there is nothing to store ({names}); give other [[methods]] or parameters"
    if skipped.media:
        pointer, reason = next(iter(skipped.media.items()))
        return f"no example could be used: {len(skipped.media)} media failed, the first: {pointer}: {reason}"
    if skipped.undrawn and not skipped.unmentioned:
        return (
            f"no answer to {skipped.undrawn.total()} requests has a picture; give a larger [[max_new_tokens]], or ask "
            "for what the model draws (`atlas generate --draw picture.png` tries one request)"
        )
    not_compared = skipped.ungridded + (skipped.unplaced if REGION in needs(job) else Counter())
    if not_compared and not skipped.unmentioned:
        names = ", ".join(f"{c} {n}x" for c, n in not_compared.most_common(5))
        why = "whose tokens have a known place" if skipped.ungridded else "that says where the concept is"
        return (
            f"no picture could be compared with a neuron's map: there is none {why} ({names}); give other [[methods]]"
        )
    if skipped.unplaced and not skipped.unmentioned:
        names = ", ".join(f"{c} {n}x" for c, n in skipped.unplaced.most_common(5))
        return (
            f"the segmenter '{job.segmenter}' found no region of the requested concepts ({names}); choose another "
            "[[segmenter]] or other options for it ([[segmenter=none]] takes whole pictures)"
        )
    lacking = ", ".join(f"{c} {n}x" for c, n in skipped.unmentioned.most_common(5))
    return (
        f"no answer mentions the words of {', '.join(job.concepts[:5])} (not in the answer: {lacking}); "
        "give other [[concepts]], or more examples with [[per_concept]]"
    )
