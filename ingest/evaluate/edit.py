"""What an edit does on held-out examples: before, with the edit, and with as many random neurons of the same layers.

An answer counts as right where every token of the words that stand for the concept is the model's first choice, given
what comes before it in the reference answer (teacher forcing). Where the dataset has no reference, the unedited model's
own answer is the reference. For word swaps and datasets that name metrics, whole answers are generated as well.
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
from ingest.evaluate.effects import Evaluation, effects_table, model_effect, stored_effects, summarise
from ingest.evaluate.from_edit import concept_of, solving_again, swap_of
from ingest.evaluate.generated import REFERENCES, AnswerEvaluator, check_measures, chosen_metrics, plugin_metrics
from ingest.evaluate.teacher_forced import Scores, TeacherForced
from ingest.evaluate.word_swap import SwapEvaluator
from ingest.job import Execution, Job
from ingest.run import prepare
from ingest.run.resolve import identity
from ingest.run.session import prepare_job, run_of


class Evaluator(Protocol):
    """Puts held-out questions to a model as it is."""

    live: LiveModel

    def evaluate(self) -> Scores:
        """The scores of every question with the model as it is now."""
        ...


def evaluate_with(evaluator: Evaluator, intervention: Intervention) -> Scores:
    """The scores with an intervention."""
    with changing(evaluator.live, intervention):
        return evaluator.evaluate()


def evaluate_with_random(
    evaluator: Evaluator, intervention: Intervention, seeds: int, controls: Controls
) -> list[Scores]:
    """The scores with the same changes made to as many random neurons, once for each seed; none where the intervention
    changes whole layers."""
    if whole_layers(intervention.neurons, controls.width):
        return []
    return [evaluate_with(evaluator, on_random_neurons(intervention, controls, seed)) for seed in range(seeds)]


def on_random_neurons(
    intervention: Intervention, controls: Controls, seed: int, values: Mapping[Neuron, float] | None = None
) -> Intervention:
    """The same changes made to as many random neurons.

    values: for an edit that sets each neuron to its own mean or minimum; the random neurons are set to theirs.
    """
    ordered = sorted(intervention.neurons, key=lambda n: (n.component, n.layer))
    drawn = dict(zip(ordered, controls.draw(ordered, seed), strict=True))
    changes = [replace(c, neuron=drawn[c.neuron]) for c in intervention.changes]
    if values is not None:
        changes = [replace(c, bias=values[c.neuron]) for c in changes]
    return replace(intervention, changes=tuple(changes))


def own_values(atlas: Path, edit: Edit) -> dict[Neuron, float] | None:
    """Every neuron's reference value, where the edit sets its neurons to their own; else None."""
    change_record = edit.provenance.get("change", {})
    statistic = next((name for name in (MEAN, MIN) if change_record.get(name)), None)
    return None if statistic is None else reference_values(atlas, edit.provenance, statistic)


@dataclass(frozen=True)
class Measures:
    """What to measure besides the teacher-forced questions.

    metrics: names; None: those that the dataset names for the tasks. options: of metrics, by name. against: what
    answers are compared with. judge: the model that recognises what a drawn picture shows, a folder or HuggingFace id;
    by default the model's own. pictures: a folder to save drawn pictures in.
    """

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

    For comparison the same change is made, `seeds` times, to random neurons of the same layers, by default with about
    the same mean |activation| (controls: "layers" or "activation"); what a solver learned is learned again on them.

    Raises:
        UsageError: the model's weights are not the edit's; no question to ask.
    """
    measures = measures or Measures()
    check_measures(measures.metrics, measures.options, measures.against)
    prepared = prepare_job(job, execution)
    job, dataset = prepared.job, prepared.dataset
    live = prepare.load_model(job, execution)
    require_own(edit, live)
    notes = [f"asks {prepare.describe_examples(job, dataset, prepared.examples)}"]
    judge = judge_for(live, prepared.examples, list(dataset.concepts.values()), measures.judge, notes)
    chosen_controls = controls_for(atlas, live, controls, edit.intervention.tap, notes=notes if seeds else [])
    extra: dict[str, Any] = {
        "edit": edit.label,
        "concept": edit.concept,
        "intervention": digest(edit.intervention),
        "seeds": seeds,
        "controls": chosen_controls.kind,
        "metrics": [measures.metrics, measures.options, measures.against],
        **({"judge": judge.identity} if judge is not None else {}),
        "methods": {},
    }
    if plugins := plugin_metrics(dataset, {example.task for example in prepared.examples}, measures.metrics):
        extra["plugins"] = plugins
    model_identity = identity(live, job, dataset, prepared.examples)
    with run_of(atlas, "evaluate", prepared, live, execution, identity=model_identity, extra_fields=extra) as run:
        if run.done:
            return Evaluation(run.run_id, False, stored_effects(atlas, run.run_id), {})
        evaluator = TeacherForced(run.encoder, prepared.examples, execution.batch_size)
        concept = concept_of(edit, dataset)
        if concept is None and edit.concept is not None:
            notes.append(f"{dataset.name} has no concept '{edit.concept}': all its questions count as others")
        if concept is not None and concept not in evaluator.concepts() and edit.solver is None:
            raise UsageError(
                f"no {job.split} example of {job.dataset} asks about '{concept}'; "
                "give [[concepts]] that include it, other [[tasks]], or a [[dataset]] that has it"
            )
        evaluators = {evaluator: concept} | _further(edit, concept, evaluator, measures, judge, notes)
        rows = _rows(atlas, edit, evaluators, seeds, chosen_controls, notes)
        for picture_evaluator in (e for e in evaluators if isinstance(e, DrawingEvaluator)):
            if measures.pictures is not None:
                count = picture_evaluator.save(measures.pictures)
                notes.append(f"{count} pictures, before and with the edit, are in {measures.pictures}")
        labels = {"run_id": run.run_id, "edit": edit.label, "concept": concept}
        rows = [{**labels, **row} for row in rows]
        run.finish({}, {"effects": effects_table(rows)})
    return Evaluation(run.run_id, True, tuple(rows), run.encoder.skipped.plain(), tuple(notes))


def _further(
    edit: Edit,
    concept: str | None,
    evaluator: TeacherForced,
    measures: Measures,
    judge: PictureJudge | None,
    notes: list[str],
) -> dict[Evaluator, str | None]:
    """Further evaluators, each with the concept that its scores are split by: for whole answers of a word swap, for
    drawn pictures, and for answers that metrics judge."""
    encoder, batch_size, further = evaluator.encoder, evaluator.batch_size, dict[Evaluator, str | None]()
    if (swap := swap_of(edit)) is not None:
        swap_evaluator = SwapEvaluator(encoder, evaluator.examples, swap, batch_size, concept or swap.said)
        if not swap_evaluator.cases:
            notes.append(
                f"the model says '{swap.said}' in no held-out answer; success is not measured (try other tasks)"
            )
        further[swap_evaluator] = swap_evaluator.concept
    tasks = sorted({e.task for e in evaluator.examples})
    metrics = chosen_metrics(encoder.dataset, tasks, measures.metrics, measures.options, notes=notes)
    solver_record = edit.provenance.get("solver", {})
    goal = solver_record.get("goal") if solver_record.get("target") == IMAGE else None
    if judge is not None:
        further[DrawingEvaluator(encoder, evaluator.examples, judge, batch_size, goal)] = concept
    if metrics:
        further[AnswerEvaluator(encoder, evaluator.examples, metrics, concept, batch_size, measures.against)] = concept
    return further


def _rows(
    atlas: Path,
    edit: Edit,
    evaluators: Mapping[Evaluator, str | None],
    seeds: int,
    controls: Controls,
    notes: list[str],
) -> list[dict[str, Any]]:
    """The effects of every condition by every evaluator, split by the evaluator's concept."""
    live = next(iter(evaluators)).live
    scores_by_evaluator: list[dict[str, list[Scores]]] = [{} for _ in evaluators]

    seconds: dict[str, float] = {}

    def under_all(condition: str, intervention: Intervention | None) -> None:
        for evaluator, scores in zip(evaluators, scores_by_evaluator, strict=True):
            started = time.perf_counter()
            result = evaluator.evaluate() if intervention is None else evaluate_with(evaluator, intervention)
            # Time the teacher-forced questions, which come first: answers from before may be stored ones.
            seconds.setdefault(condition, time.perf_counter() - started)
            scores.setdefault(condition, []).append(result)

    under_all("before", None)
    under_all("edit", edit.intervention)
    for control in random_controls(atlas, edit, live, seeds, controls, notes):
        under_all("random", control)
    rows = [
        row
        for split_concept, conditions in zip(evaluators.values(), scores_by_evaluator, strict=True)
        for row in summarise(conditions, split_concept)
    ]
    rows += [model_effect(condition, "seconds", seconds[condition]) for condition in ("before", "edit")]
    return [*rows, model_effect("edit", "changed_parameters", edit.intervention.parameters(live.layout.d_model))]


def random_controls(
    atlas: Path, edit: Edit, live: LiveModel, seeds: int, controls: Controls, notes: list[str]
) -> list[Intervention]:
    """The same change made to as many random neurons, once for each seed; what a solver learned is learned again.

    notes: a note is added where there is no control, or one that shares neurons with the edit.
    """
    width = live.layout.width
    crowded_layers = sorted(y for y, count in Counter(n.layer for n in edit.neurons).items() if 2 * count > width)
    if not seeds:
        return []
    if whole_layers(edit.neurons, width):
        notes.append("no random control: the edit changes every neuron of its layers")
        return []
    if crowded_layers:
        layers = ", ".join(map(str, crowded_layers))
        notes.append(f"random controls share neurons with the edit, which changes more than half of layers {layers}")
    if edit.provenance.get("parts"):
        notes.append(
            "the random controls of a composed edit make its exact changes to other neurons: nothing is learned "
            "again, and means and minima are the edit's own"
        )
    if edit.solver is None:
        values = own_values(atlas, edit)
        return [on_random_neurons(edit.intervention, controls, seed, values) for seed in range(seeds)]
    solved = []
    try:
        solve_again = solving_again(edit, live)
        for seed in range(seeds):
            solved.append(solve_again(controls.draw(edit.neurons, seed)))
    except AtlasError as error:
        notes.append(f"{len(solved)} of {seeds} random controls: the edit could not be solved on others ({error})")
    return solved


def whole_layers(neurons: Sequence[Neuron], width: int) -> bool:
    """Whether these are all the neurons of their layers, so that there are no others of the same layers to draw."""
    return all(count == width for count in Counter(n.layer for n in set(neurons)).values())
