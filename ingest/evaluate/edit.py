"""What an edit does, on held-out examples: before, with the edit, and with as many random neurons of the same layers.

An answer counts as right where every token of the words that stand for the concept is the model's first choice, given
what comes before it in the reference answer (teacher forcing). Where the dataset has no reference, the unedited model's
own answer is the reference. Word swaps and datasets that name metrics are asked for whole answers too.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from atlas.edits.edit import Edit, Intervention
from atlas.edits.files import digest
from atlas.edits.reference_values import MEAN, MIN, reference_values
from atlas.errors import AtlasError, UsageError
from atlas.live.edit.apply import changing, require_own
from atlas.live.model import LiveModel
from atlas.neurons import Neuron
from ingest.data.examples import IMAGE
from ingest.draw.picture_judge import PictureJudge, judge_for
from ingest.evaluate.controls import Controls, controls_for
from ingest.evaluate.drawn import DrawingEvaluator
from ingest.evaluate.effects import Evaluation, model_effect, store_effects, stored_effects, summarise
from ingest.evaluate.from_edit import concept_of, solving_again, swap_of
from ingest.evaluate.generated import REFERENCES, AnswerEvaluator, check_measures, chosen_metrics, plugin_metrics
from ingest.evaluate.teacher_forced import Scores, TeacherForced
from ingest.evaluate.word_swap import SwapEvaluator
from ingest.job import Execution, Job
from ingest.run import prepare
from ingest.run.resolve import identity
from ingest.run.session import prepare_job, run_of


class Evaluator(Protocol):
    """Whatever puts held-out questions to a model as it is."""

    live: LiveModel

    def ask(self) -> Scores: ...


def evaluate_with(evaluator: Evaluator, intervention: Intervention) -> Scores:
    """The scores with an intervention."""
    with changing(evaluator.live, intervention):
        return evaluator.ask()


def evaluate_with_random(
    evaluator: Evaluator, intervention: Intervention, seeds: int, controls: Controls
) -> list[Scores]:
    """The scores with the same changes made to as many random neurons, once a seed; none where the intervention is of
    whole layers."""
    if whole_layers(intervention.neurons, controls.width):
        return []
    return [evaluate_with(evaluator, on_random_neurons(intervention, controls, seed)) for seed in range(seeds)]


def on_random_neurons(
    intervention: Intervention, controls: Controls, seed: int, values: Mapping[Neuron, float] | None = None
) -> Intervention:
    """The same changes to as many random neurons.

    values: for an edit that sets each neuron to its own mean or minimum: a random neuron is set to its own.
    """
    ordered = sorted(intervention.neurons, key=lambda n: (n.component, n.layer))
    drawn = dict(zip(ordered, controls.draw(ordered, seed), strict=True))
    changes = [replace(c, neuron=drawn[c.neuron]) for c in intervention.changes]
    if values is not None:
        changes = [replace(c, bias=values[c.neuron]) for c in changes]
    return replace(intervention, changes=tuple(changes))


def own_values(atlas: Path, edit: Edit) -> dict[Neuron, float] | None:
    """Every neuron's own reference value, where the edit sets its neurons to theirs."""
    said = edit.provenance.get("change", {})
    statistic = next((name for name in (MEAN, MIN) if said.get(name)), None)
    return None if statistic is None else reference_values(atlas, edit.provenance, statistic)


@dataclass(frozen=True)
class Measures:
    """What to measure beside the teacher-forced questions. metrics: by name; None: those that the dataset names for the
    tasks. options: of metrics, by name. against: what answers are compared with. judge: what says what a drawn picture
    shows, a folder or HuggingFace id; by default the model's own. pictures: a folder to save them in."""

    metrics: tuple[str, ...] | None = None
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    against: str = REFERENCES
    judge: str | None = None
    pictures: Path | None = None


def evaluate(
    atlas: Path,
    edit: Edit,
    job: Job,
    execution: Execution,
    *,
    seeds: int = 5,
    controls: str | None = None,
    measures: Measures | None = None,
) -> Evaluation:
    """Measure a stored edit on held-out examples and store the effects as a run of their own.

    Beside it, `seeds` times, the same done to random neurons of the same layers, and by default of about the same mean
    |activation| (controls: "layers" or "activation"); an edit that a solver learned is learned again on them.

    Raises:
        UsageError: the model's weights are not the edit's; nothing to ask.
    """
    measures = measures or Measures()
    check_measures(measures.metrics, measures.options, measures.against)
    asked = prepare_job(job, execution)
    job, dataset = asked.job, asked.dataset
    live = prepare.load_model(job, execution)
    require_own(edit, live)
    notes = [f"asks {prepare.describe_examples(job, dataset, asked.examples)}"]
    judge = judge_for(live, asked.examples, list(dataset.concepts.values()), measures.judge, notes)
    drawing = controls_for(atlas, live, controls, edit.intervention.tap, tell=notes if seeds else [])
    more: dict[str, Any] = {
        "edit": edit.label,
        "concept": edit.concept,
        "intervention": digest(edit.intervention),
        "seeds": seeds,
        "controls": drawing.kind,
        "metrics": [measures.metrics, measures.options, measures.against],
        **({"judge": judge.identity} if judge is not None else {}),
        "methods": {},
    }
    if plugins := plugin_metrics(dataset, {example.task for example in asked.examples}, measures.metrics):
        more["plugins"] = plugins
    own = identity(live, job, dataset, asked.examples)
    with run_of(atlas, "evaluate", asked, live, execution, identity=own, more=more) as run:
        if run.done:
            return Evaluation(run.run_id, False, stored_effects(atlas, run.run_id), {})
        evaluator = TeacherForced(live, dataset, job, execution, run.record)
        concept = concept_of(edit, dataset)
        if concept is None and edit.concept is not None:
            notes.append(f"{dataset.name} has no concept '{edit.concept}': all of its questions count as others")
        if concept is not None and concept not in evaluator.concepts() and edit.solver is None:
            raise UsageError(
                f"no {job.split} example of {job.dataset} asks about '{concept}'; "
                "give --concepts with it in, other --tasks, or the --dataset that has it"
            )
        evaluators = {evaluator: concept} | _further(edit, concept, evaluator, measures, judge, notes)
        rows = _rows(atlas, edit, evaluators, seeds, drawing, notes)
        for picture_evaluator in (e for e in evaluators if isinstance(e, DrawingEvaluator)):
            if measures.pictures is not None:
                count = picture_evaluator.save(measures.pictures)
                notes.append(f"{count} pictures, before and with the edit, are in {measures.pictures}")
        labels = {"run_id": run.run_id, "edit": edit.label, "concept": concept}
        rows = [{**labels, **row} for row in rows]
        skipped = evaluator.feed.skipped.plain()
        store_effects(run.record, evaluator.examples, rows, skipped, evaluator.feed.made)
    return Evaluation(run.run_id, True, tuple(rows), skipped, tuple(notes))


def _further(
    edit: Edit,
    concept: str | None,
    evaluator: TeacherForced,
    measures: Measures,
    judge: PictureJudge | None,
    notes: list[str],
) -> dict[Evaluator, str | None]:
    """What is asked besides, and the concept that its scores are split by: whole answers of a word swap, and answers
    that metrics judge."""
    feed, batch_size, found = evaluator.feed, evaluator.batch_size, dict[Evaluator, str | None]()
    if (swap := swap_of(edit)) is not None:
        swapping = SwapEvaluator(feed, evaluator.examples, swap, batch_size, concept or swap.said)
        if not swapping.cases:
            notes.append(
                f"the model says '{swap.said}' in no held-out answer; success is not measured (try other --tasks)"
            )
        found[swapping] = swapping.concept
    tasks = sorted({e.task for e in evaluator.examples})
    metrics = chosen_metrics(feed.dataset, tasks, measures.metrics, measures.options, tell=notes)
    said = edit.provenance.get("solver", {})
    goal = said.get("goal") if said.get("target") == IMAGE else None
    if judge is not None:
        found[DrawingEvaluator(feed, evaluator.examples, judge, batch_size, goal)] = concept
    if metrics:
        found[AnswerEvaluator(feed, evaluator.examples, metrics, concept, batch_size, measures.against)] = concept
    return found


def _rows(
    atlas: Path,
    edit: Edit,
    evaluators: Mapping[Evaluator, str | None],
    seeds: int,
    controls: Controls,
    notes: list[str],
) -> list[dict[str, Any]]:
    """The effects of every condition, as every evaluator sees it, split by its concept."""
    live = next(iter(evaluators)).live
    found: list[dict[str, list[Scores]]] = [{} for _ in evaluators]

    seconds: dict[str, float] = {}

    def under_all(condition: str, intervention: Intervention | None) -> None:
        for evaluator, scores in zip(evaluators, found, strict=True):
            started = time.perf_counter()
            asked = evaluator.ask() if intervention is None else evaluate_with(evaluator, intervention)
            # Of the teacher-forced questions, which come first: answers from before may be stored ones.
            seconds.setdefault(condition, time.perf_counter() - started)
            scores.setdefault(condition, []).append(asked)

    under_all("before", None)
    under_all("edit", edit.intervention)
    for control in random_controls(atlas, edit, live, seeds, controls, notes):
        under_all("random", control)
    rows = [row for about, s in zip(evaluators.values(), found, strict=True) for row in summarise(s, about)]
    rows += [model_effect(condition, "seconds", seconds[condition]) for condition in ("before", "edit")]
    return [*rows, model_effect("edit", "changed_parameters", edit.intervention.parameters(live.layout.d_model))]


def random_controls(
    atlas: Path, edit: Edit, live: LiveModel, seeds: int, controls: Controls, notes: list[str]
) -> list[Intervention]:
    """The same done to as many random neurons, once a seed; what a solver learned is learned again.

    notes: gets a word where there is no control, or one that shares neurons with the edit.
    """
    width = live.layout.width
    crowded = sorted(y for y, count in Counter(n.layer for n in edit.neurons).items() if 2 * count > width)
    if not seeds:
        return []
    if whole_layers(edit.neurons, width):
        notes.append("no random control: the edit changes every neuron of its layers")
        return []
    if crowded:
        layers = ", ".join(map(str, crowded))
        notes.append(f"random controls share neurons with the edit, which changes more than half of layers {layers}")
    if edit.provenance.get("parts"):
        notes.append(
            "the random controls of a composed edit make its very changes to other neurons: nothing is learned "
            "again, and means and minima are the edit's own"
        )
    if edit.solver is None:
        values = own_values(atlas, edit)
        return [on_random_neurons(edit.intervention, controls, seed, values) for seed in range(seeds)]
    found = []
    try:
        again = solving_again(edit, live)
        for seed in range(seeds):
            found.append(again(controls.draw(edit.neurons, seed)))
    except AtlasError as error:
        notes.append(f"{len(found)} of {seeds} random controls: it could not be solved on others ({error})")
    return found


def whole_layers(neurons: Sequence[Neuron], width: int) -> bool:
    """Whether these are all neurons of their layers, so that no others of the same layers can stand beside them."""
    return all(count == width for count in Counter(n.layer for n in set(neurons)).values())
