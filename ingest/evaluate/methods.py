"""A method judged by what its neurons do: each concept's best neurons are ablated and compared with random ones.

For every concept and source, the method's `top` neurons from that source are set to zero; that source's held-out
questions are asked and its requests for pictures drawn, about the concept (suppression: lower is better) and about the
others (retention).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from atlas.edits import kinds
from atlas.edits.edit import Intervention
from atlas.edits.kinds import make_changes
from atlas.errors import UsageError
from atlas.live.model import LiveModel
from atlas.neurons import PRODUCT, Neuron
from atlas.query.amount import count_of
from atlas.query.map_spec import MapSpec
from atlas.query.neuron_set import NeuronSet
from atlas.query.statements import find_maps
from atlas.questions.query import Query
from atlas.stats.cross_ablation import ABOUT
from atlas.store.database import open_readonly
from ingest.data.examples import IMAGE, TEXT, Dataset
from ingest.draw.picture_judge import PictureJudge, judge_for
from ingest.evaluate.controls import Controls, controls_for
from ingest.evaluate.drawn import DRAWN, DrawingEvaluator
from ingest.evaluate.edit import Evaluator, evaluate_with, evaluate_with_random
from ingest.evaluate.effects import POOLED, Evaluation, effects_table, stored_effects, summarise
from ingest.evaluate.found_on import answers_of_runs
from ingest.evaluate.teacher_forced import ACCURACY, LOG_PROBABILITY, Scores, TeacherForced
from ingest.job import Execution, Job, open_dataset
from ingest.run import prepare
from ingest.run.map_step import Progress
from ingest.run.resolve import complete, identity, tasks_by_source
from ingest.run.session import ModelSession, PreparedJob, run_of

AVERAGED = (ACCURACY, LOG_PROBABILITY, DRAWN)
"""The metrics that `averages` shows, in this order; those of the other concepts are also stored one by one."""


@dataclass(frozen=True, slots=True)
class Question:
    """One method's best neurons of one concept, from one source. share: how many, as requested ("40" or "2%"). reduce,
    target: of the map that they were taken from."""

    method: str
    share: str
    reduce: str
    source: str
    concept: str
    target: str = TEXT

    @property
    def label(self) -> str:
        """The name under which the run stores the ablated neurons."""
        method = self.method if self.target == TEXT else f"{self.method}[{self.target}]"
        return f"{method}:{self.share}:{self.reduce}:{self.concept}"


def ablate_tops(
    path: Path,
    job: Job,
    execution: Execution,
    *,
    methods: Sequence[str],
    tops: Sequence[str],
    reduce: str | None = None,
    target: str | None = None,
    judge: str | None = None,
    seeds: int = 3,
    controls: str | None = None,
    answers_as_found: bool = False,
    progress: Progress = lambda done, total: None,
) -> Evaluation:
    """Ablate each concept's top neurons by each method, and store the effects (labels: `Question.label`).

    A method with maps of only one source (of pictures, say) is evaluated on that source. target: of the maps; by
    default "image" where every example asks for a picture. judge: of drawn pictures, see `judge_for`.
    answers_as_found: take the kind of answers that the maps were found on, and not the job's.

    Raises:
        UsageError: the atlas has no such map of a concept; no question to ask.
    """
    dataset = open_dataset(job)
    live = prepare.load_model(job, execution)
    concepts_named, job = bool(job.concepts), complete(job, dataset, live.takes)
    job = replace(job, sources=tuple(source for source, tasks in tasks_by_source(job, dataset).items() if tasks))
    job = _surveyed(path, job, named=concepts_named, methods=methods, model=live.name)
    prepared = PreparedJob(job, dataset, prepare.collect(job, dataset))
    prepare.tell_missing_media(dataset, prepared.examples)
    if target is None and all(example.target == IMAGE for example in prepared.examples):
        target = IMAGE
    notes: list[str] = []
    chosen, runs = _chosen(path, job, dataset, live, methods, tops, reduce, target, notes)
    answers = answers_of_runs(path, runs) if answers_as_found else job.answers
    if answers != job.answers:
        job = replace(job, answers=answers)
        prepared = PreparedJob(job, dataset, prepare.collect(job, dataset))
    notes.insert(0, f"asks {prepare.describe_examples(job, dataset, prepared.examples)}")
    picture_judge = judge_for(live, prepared.examples, list(dataset.concepts.values()), judge, notes)
    chosen_controls = controls_for(path, live, controls, PRODUCT, notes=notes if seeds else [])
    extra: dict[str, Any] = {
        "survey": {f"{q.label}|{q.source}": [str(n) for n in found] for q, found in chosen.items()},
        "seeds": seeds,
        "controls": chosen_controls.kind,
        "methods": {method: {} for method in methods},
        **({"judge": picture_judge.identity} if picture_judge is not None else {}),
    }
    model_identity = identity(live, job, dataset, prepared.examples)
    with run_of(path, "evaluate", prepared, live, execution, identity=model_identity, extra_fields=extra) as run:
        if run.done:
            return Evaluation(run.run_id, False, stored_effects(path, run.run_id), {})
        rows: list[dict[str, Any]] = []
        for source in job.sources:
            unedited = _unedited(run, source, picture_judge)
            for question, neurons in chosen.items():
                if question.source == source:
                    rows += _answered(unedited, run.run_id, question, neurons, seeds, chosen_controls)
                    progress(len({(r["source"], r["edit"]) for r in rows}), len(chosen))
        run.finish({}, {"effects": effects_table(rows)})
    return Evaluation(run.run_id, True, tuple(rows), run.encoder.skipped.plain(), tuple(notes))


def _unedited(run: ModelSession, source: str, picture_judge: PictureJudge | None) -> dict[Evaluator, Scores]:
    """What evaluates the examples of a source, each with the scores of the unedited model."""
    examples = [example for example in run.prepared.examples if example.source == source]
    evaluator = TeacherForced(run.encoder, examples, run.execution.batch_size)
    evaluators: list[Evaluator] = [evaluator]
    if picture_judge is not None:
        evaluators.append(
            DrawingEvaluator(evaluator.encoder, evaluator.examples, picture_judge, run.execution.batch_size)
        )
    return {each: each.evaluate() for each in evaluators}


def _map_of(atlas: Path, live: LiveModel, concept: str, method: str, source: str, **fields: Any) -> NeuronSet:
    """The best neurons of a map of the live model's own weights. fields: further fields of the question `Query`."""
    question = Query(concept, method, source=source, model=live.name, **fields)
    neurons = question.ask(atlas)
    if neurons.provenance["fingerprint"] == live.fingerprint:
        return neurons
    try:  # the newest is of other weights of that name: of another precision, for example
        return replace(question, where=f"fingerprint = '{live.fingerprint}'").ask(atlas)
    except UsageError:
        raise UsageError(
            f"the {method} map of {concept}, {source}, is of other weights than {live.name} has now; "
            f"`atlas ingest --model {live.name} --methods {method}` makes a new one; give it the same "
            "[[quantization]] and [[dtype]]"
        ) from None


def _chosen(
    atlas: Path,
    job: Job,
    dataset: Dataset,
    live: LiveModel,
    methods: Sequence[str],
    tops: Sequence[str],
    reduce: str | None,
    target: str | None,
    notes: list[str],
) -> tuple[dict[Question, tuple[Neuron, ...]], set[str]]:
    """Every question's neurons, and the runs that made the maps."""
    total = len(live.layout.layers) * live.layout.width
    counts = {share: count_of(share, total, "doses") for share in tops}
    if excessive := [share for share, count in counts.items() if count > total]:
        raise UsageError(f"[[doses]]: {excessive[0]} is more than the {total} neurons of {live.name}; write 40, or 2%")
    chosen, runs = {}, set()
    for method, source in itertools.product(methods, job.sources):
        mapped = mapped_concepts(atlas, method, source, live.name)
        for concept in job.concepts:
            if len(methods) > 1 and concept not in mapped:
                continue  # a filter may leave no neuron, and a method of pictures has no map from text
            arguments = {"dataset": dataset.name, "top": max(counts.values()), "reduce": reduce, "target": target}
            best = _map_of(atlas, live, concept, method, source, **arguments)
            stored_map = best.provenance["maps"][0]
            runs.add(stored_map["run_id"])
            for share, top in counts.items():
                question = Question(
                    method, share, str(stored_map["reduce"]), source, concept, str(stored_map["target"])
                )
                chosen[question] = best.neurons[:top]
                if len(best) < top:
                    notes.append(f"{question.label}: {len(best)} neurons, as no other has a score above 0")
    for method in methods:
        if not any(question.method == method for question in chosen):
            raise UsageError(
                f"the atlas has no {method} map of these concepts; `atlas ingest --methods {method}` makes them, "
                "and `atlas concepts` lists what is stored"
            )
    return chosen, runs


def _answered(
    unedited: Mapping[Evaluator, Scores],
    run_id: str,
    question: Question,
    neurons: Sequence[Neuron],
    seeds: int,
    controls: Controls,
) -> list[dict[str, Any]]:
    """The effects of ablating one question's neurons. unedited: each evaluator's scores of the unedited model."""
    zeroed = Intervention(make_changes(neurons, kinds.ablate()))
    labels = {"run_id": run_id, "edit": question.label, "concept": question.concept, "method": question.method}
    labels |= {"dose": question.share, "reduce": question.reduce, "target": question.target}
    rows = []
    for evaluator, scores in unedited.items():
        conditions = {"before": [scores], "edit": [evaluate_with(evaluator, zeroed)]}
        if random_scores := evaluate_with_random(evaluator, zeroed, seeds, controls):
            conditions["random"] = random_scores
        rows += [{**labels, **row} for row in summarise(conditions, question.concept, AVERAGED)]
    return rows


def mapped_concepts(path: Path, method: str, source: str, model: str) -> set[str]:
    """The concepts with a stored map of this method, source and model."""
    with open_readonly(path) as connection:
        rows = find_maps(MapSpec(method=method, source=source, model=model)).run(connection)
    return set(rows["concept"].to_pylist()) - {"*"}


def _surveyed(atlas: Path, job: Job, *, named: bool, methods: Sequence[str], model: str) -> Job:
    """The job with the concepts of which the atlas has maps of all these methods, unless concepts were named."""
    mapped_by_source = [mapped_concepts(atlas, method, source, model) for method in methods for source in job.sources]
    considered = [concepts for concepts in mapped_by_source if concepts or len(methods) == 1]
    common = [c for c in job.concepts if all(c in concepts for concepts in considered)]
    return job if named or not common else replace(job, concepts=tuple(common))


def averages(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """The mean over concepts, and the worst concept, by method, number of neurons, source, subset, metric (right
    answers, the mean log-probability of their words, and pictures that show the requested concept) and condition; all
    tasks pooled."""
    groups: dict[tuple[str, ...], dict[str, list[float]]] = {}
    names = ("method", "top", "source", "subset", "metric")
    for row in rows:
        if row["metric"] in AVERAGED and row["task"] == POOLED and not row["subset"].startswith(ABOUT):
            method = row["method"] if row["target"] == TEXT else f"{row['method']}[{row['target']}]"
            key = (method, row["dose"], *(str(row[name]) for name in names[2:]))
            groups.setdefault(key, {}).setdefault(row["condition"], []).append(row["value"])
    several = len({key[:2] for key in groups}) > 1
    hidden = set() if several else {"method", "top"}
    averaged = []
    for key, by_condition in sorted(groups.items(), key=lambda group: (group[0][:4], AVERAGED.index(group[0][4]))):
        cells: dict[str, Any] = dict(zip(names, key, strict=True))
        spelled = "{:.2f}" if key[4] == LOG_PROBABILITY else "{:.1%}"
        cells |= {condition: spelled.format(np.mean(values)) for condition, values in by_condition.items()}
        worst = max if cells["subset"] == "concept" else min
        cells["worst_concept"] = spelled.format(worst(by_condition["edit"]))
        cells["concepts"] = len(by_condition["edit"])
        averaged.append({k: v for k, v in cells.items() if k not in hidden})
    return pa.Table.from_pylist(averaged)


def pooled_accuracy(rows: Iterable[Mapping[str, Any]], source: str, subset: str, condition: str) -> float:
    """The mean accuracy over concepts, all tasks pooled."""
    key = (source, POOLED, subset, condition, "accuracy")
    names = ("source", "task", "subset", "condition", "metric")
    return float(np.mean([r["value"] for r in rows if tuple(r[n] for n in names) == key]))
