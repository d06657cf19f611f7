"""What an edit does: accuracy on its concept and on the others, before, with the edit, and with matched random neurons.

An answer counts as right where every token of the words that stand for the concept is the model's first choice, given
what comes before it in the reference answer (teacher forcing). Where the dataset has no reference, the unedited model's
own answer is the reference.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from atlas.database import reading
from atlas.edit_files import digest
from atlas.edits import Edit, Intervention
from atlas.errors import UsageError
from atlas.live.edit import applied, changing
from atlas.live.model import LiveModel
from atlas.neurons import PRODUCT, Neuron
from atlas.reference import MEAN, MIN, reference_values
from atlas.schema import arrow_schema, effects
from atlas.selection import matched_random
from ingest import run, tables
from ingest.examples import Dataset, Example
from ingest.feed import Feed, Response, batches
from ingest.job import Execution, Job, complete, open_dataset, resolved
from ingest.record import Record
from ingest.trace import Item, shortest_first, traced

POOLED = "*"
"""The task of an effect that pools all tasks."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One thing asked of the model: the concept that an example's target stands for, and all that it mentions."""

    source: str
    task: str
    concept: str
    mentioned: frozenset[str]


@dataclass(frozen=True, slots=True)
class Scores:
    """What was asked and, in the same order, whether it was right (bool) and its log-probability (float)."""

    asked: tuple[Asked, ...]
    right: np.ndarray
    log_probability: np.ndarray


class Examiner:
    """Held-out questions, encoded once, put to a model under any number of conditions."""

    def __init__(self, live: LiveModel, dataset: Dataset, job: Job, execution: Execution, record: Record | None = None):
        """record: the run that the questions are put for; its model's stored answers are not made again."""
        self.live, self.batch_size = live, execution.batch_size
        self.examples: list[Example] = run.collect(job, dataset)
        responses = None if record is None else record.responses
        self.feed = Feed(live, dataset, job, bad_media=execution.bad_media, responses=responses)
        self.items: dict[str, list[Item]] = {}
        for source in job.sources:
            mine = [(n, e) for n, e in enumerate(self.examples) if e.source == source]
            self.items[source] = shortest_first(self.feed.items(mine, execution.batch_size))
        if not any(self.items.values()):
            raise UsageError("no held-out answer mentions a concept; give other --concepts or a larger --per-concept")

    def concepts(self) -> set[str]:
        """What is asked about."""
        return {target.concept for items in self.items.values() for item in items for target in item.targets}

    @torch.no_grad()
    def ask(self) -> Scores:
        """The model's score on every question as it is now; the caller's `with` block decides how it is edited."""
        asked: list[Asked] = []
        right: list[torch.Tensor] = []
        logp: list[torch.Tensor] = []
        for source, items in self.items.items():
            for some in batches(items, self.batch_size):
                with traced(self.live, some, source, layers=[], tap=PRODUCT, grad=False) as trace:
                    missed, pair_logp = trace.verdicts()
                for row, concept in zip(trace.pairs.tolist(), trace.concepts, strict=True):
                    example = self.examples[some[row].number]
                    asked.append(Asked(source, example.task, concept, frozenset(m.concept for m in example.mentions)))
                right.append(missed == 0)
                logp.append(pair_logp)
        return Scores(tuple(asked), torch.cat(right).cpu().numpy(), torch.cat(logp).cpu().numpy())


def wilson(right: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson's score interval)."""
    z, share = 1.96, right / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def spread(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of a mean over seeds (Student's t); the value itself for one seed."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, mean
    from scipy.stats import t

    half = float(t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))
    return mean - half, mean + half


Group = tuple[str, str, str]
"""source, task (or POOLED), subset ("concept" or "others")."""


def grouped(scores: Scores, concept: str | None) -> dict[Group, np.ndarray]:
    """The questions of every group, by their places. "others" are about another concept, in an example that does not
    mention this one; without a concept everything is "others"."""
    groups: dict[Group, list[int]] = {}
    for i, asked in enumerate(scores.asked):
        if asked.concept != concept and concept in asked.mentioned:
            continue
        subset = "concept" if asked.concept == concept else "others"
        for task in (asked.task, POOLED):
            groups.setdefault((asked.source, task, subset), []).append(i)
    return {key: np.array(index) for key, index in sorted(groups.items())}


def summarise(conditions: Mapping[str, Sequence[Scores]], concept: str | None) -> list[dict[str, Any]]:
    """One row for every group, condition and metric. conditions: name -> the scores, one for each seed."""
    rows = []
    groups = grouped(next(iter(conditions.values()))[0], concept)  # every condition was asked the same
    for condition, repeats in conditions.items():
        for (source, task, subset), index in groups.items():
            right = [int(s.right[index].sum()) for s in repeats]
            shares = [r / len(index) for r in right]
            single = len(repeats) == 1
            measured = {
                "accuracy": (shares, wilson(right[0], len(index)) if single else spread(shares)),
                "log_probability": _logp([s.log_probability[index] for s in repeats]),
            }
            for metric, (values, (low, high)) in measured.items():
                rows.append(
                    {
                        "source": source,
                        "task": task,
                        "subset": subset,
                        "condition": condition,
                        "metric": metric,
                        "value": float(np.mean(values)),
                        "low": low,
                        "high": high,
                        "examples": len(index),
                        "seeds": len(repeats),
                    }
                )
    return rows


def _logp(repeats: Sequence[np.ndarray]) -> tuple[list[float], tuple[float, float]]:
    means = [float(r.mean()) for r in repeats]
    return means, spread(list(repeats[0]) if len(repeats) == 1 else means)


def under(examiner: Examiner, intervention: Intervention) -> Scores:
    """The scores with an intervention."""
    with changing(examiner.live, intervention):
        return examiner.ask()


def controls(
    examiner: Examiner,
    intervention: Intervention,
    seeds: int,
    values: Mapping[Neuron, float] | None = None,
) -> list[Scores]:
    """The scores with the same changes made to as many random neurons of the same layers, once a seed.

    values: see `moved`.
    """
    width = examiner.live.layout.width
    return [under(examiner, moved(intervention, width, seed, values)) for seed in range(seeds)]


def moved(
    intervention: Intervention, width: int, seed: int, values: Mapping[Neuron, float] | None = None
) -> Intervention:
    """The same changes to as many random neurons of the same layers. width: neurons a layer.

    values: for an edit that sets each neuron to its own mean or minimum: a random neuron is set to its own.
    """
    ordered = sorted(intervention.neurons, key=lambda n: (n.component, n.layer))
    drawn = dict(zip(ordered, matched_random(ordered, width, seed), strict=True))
    changes = [replace(c, neuron=drawn[c.neuron]) for c in intervention.changes]
    if values is not None:
        changes = [replace(c, bias=values[c.neuron]) for c in changes]
    return replace(intervention, changes=tuple(changes))


def own_values(atlas: Path, edit: Edit) -> dict[Neuron, float] | None:
    """Every neuron's own reference value, where the edit sets its neurons to theirs."""
    said = edit.provenance.get("change", {})
    statistic = next((name for name in (MEAN, MIN) if said.get(name)), None)
    return None if statistic is None else reference_values(atlas, edit.provenance, statistic)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The stored effects of an edit. fresh: False where the same evaluation had been done before. skipped: what was
    left out and why (see `ingest.feed.Skipped`)."""

    run_id: str
    fresh: bool
    rows: tuple[dict[str, Any], ...]
    skipped: Mapping[str, Any]


def evaluate(atlas: Path, edit: Edit, job: Job, execution: Execution, *, seeds: int = 5) -> Evaluation:
    """Measure a stored edit on held-out examples and store the effects as a run of their own.

    Raises:
        UsageError: the model's weights are not the edit's; nothing to ask.
    """
    dataset = open_dataset(job)
    job = complete(job, dataset)
    live = run.load_model(job, execution)
    with applied(edit, live):
        pass  # refuses another model before anything is measured
    plain = resolved(job, dataset, run.collect(job, dataset), live.identity) | {
        "edit": edit.label,
        "concept": edit.concept,
        "intervention": digest(edit.intervention),
        "seeds": seeds,
        "methods": {},
    }
    record = Record(atlas, "evaluate", plain, live, dataset, execution)
    if record.begun():
        return Evaluation(record.run_id, False, stored_effects(atlas, record.run_id), {})
    with record.running():
        examiner = Examiner(live, dataset, job, execution, record)
        if edit.concept is not None and edit.concept not in examiner.concepts():
            raise UsageError(
                f"no {job.split} example of {job.dataset} asks about '{edit.concept}'; "
                "give --concepts with it in, other --tasks, or the --dataset that has it"
            )
        found = {"before": [examiner.ask()], "edit": [under(examiner, edit.intervention)]}
        if seeds:
            found["random"] = controls(examiner, edit.intervention, seeds, own_values(atlas, edit))
        labels = {"run_id": record.run_id, "edit": edit.label, "concept": edit.concept}
        effects_rows = [{**labels, **row} for row in summarise(found, edit.concept)]
        skipped = examiner.feed.skipped.plain()
        store_effects(record, examiner.examples, effects_rows, skipped, examiner.feed.made)
    return Evaluation(record.run_id, True, tuple(effects_rows), skipped)


def store_effects(
    record: Record,
    examples: Sequence[Example],
    found: Sequence[Mapping[str, Any]],
    skipped: Mapping[str, Any],
    made: Sequence[Response],
) -> None:
    """Finish a run whose result is effects. made: the answers that the model gave for it."""
    content = {
        "examples": tables.examples_table(examples),
        "responses": tables.responses_table(made),
        "effects": pa.Table.from_pylist(list(found), schema=arrow_schema(effects)),
    }
    record.finish({"examples": len(examples), "skipped": skipped}, content)


def stored_effects(atlas: Path, run_id: str) -> tuple[dict[str, Any], ...]:
    """The effects of a run that is done."""
    with reading(atlas) as connection:
        query = "SELECT * FROM effects WHERE run_id = $run_id"
        return tuple(connection.sql(query, params={"run_id": run_id}).to_arrow_table().to_pylist())


def table(rows: Iterable[Mapping[str, Any]], metric: str = "accuracy") -> pa.Table:
    """Effects for a person: one row a group, a column for each condition, in percent with intervals."""
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        if row["metric"] != metric:
            continue
        key = (row["source"], row["task"], row["subset"])
        shown = groups.setdefault(key, {"source": key[0], "task": key[1], "subset": key[2], "n": row["examples"]})
        shown[row["condition"]] = f"{row['value']:.1%} [{row['low']:.1%}, {row['high']:.1%}]"
    return pa.Table.from_pylist([groups[key] for key in sorted(groups)])
