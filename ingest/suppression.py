"""A method judged by what its neurons do: each concept's best neurons ablated, for all concepts, beside random ones.

For every concept and source, the method's `top` neurons found from that source are set to zero and that source's
held-out questions are asked: those about the concept (suppression: lower is better) and about the others (retention).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from atlas.api import Atlas
from atlas.edits import make_changes
from atlas.errors import UsageError
from atlas.live.layout import PRODUCT
from ingest import run
from ingest.evaluate import (
    POOLED,
    Evaluation,
    Examiner,
    controls,
    store_effects,
    stored_effects,
    summarise,
    under,
)
from ingest.examples import Example
from ingest.feed import Response, Skipped
from ingest.job import Execution, Job, complete, open_dataset, resolved, tasks_by_source
from ingest.record import Record
from ingest.shards import Progress


def survey(
    path: Path,
    job: Job,
    execution: Execution,
    *,
    method: str,
    top: int,
    reduce: str | None = None,
    seeds: int = 3,
    progress: Progress = lambda done, total: None,
) -> Evaluation:
    """Ablate each concept's top neurons and store the effects, one edit label a concept ("method:top:concept").

    Raises:
        UsageError: the atlas has no such map of a concept; nothing to ask.
    """
    dataset = open_dataset(job)
    live = run.load_model(job, execution)
    atlas = Atlas(path)
    job = _surveyed(atlas, complete(job, dataset), named=bool(job.concepts), method=method, model=live.name)
    chosen = {}
    for source in job.sources:
        for concept in job.concepts:
            found = atlas.query(
                concept, method, source=source, reduce=reduce, model=live.name, dataset=dataset.name, top=top
            )
            if found.provenance["fingerprint"] != live.fingerprint:
                raise UsageError(
                    f"the {method} map of {concept}, {source}, is of other weights than {live.name} has now; "
                    f"`atlas ingest --model {live.name} --methods {method}` makes new ones"
                )
            chosen[source, concept] = found.neurons
    neurons = {f"{s}|{c}": [str(n) for n in found] for (s, c), found in chosen.items()}
    plain = resolved(job, dataset, run.collect(job, dataset), live.identity) | {
        "survey": neurons,
        "seeds": seeds,
        "methods": {method: {}},
    }
    record = Record(path, "evaluate", plain, live, dataset, execution)
    if record.begun():
        return Evaluation(record.run_id, False, stored_effects(path, record.run_id), {})
    rows: list[dict[str, Any]] = []
    examples: list[Example] = []
    made: list[Response] = []
    skipped = Skipped()
    with record.running():
        for source, tasks in tasks_by_source(job, dataset).items():
            if not tasks:
                continue  # none of the tasks that were named is asked of this source
            examiner = Examiner(live, dataset, replace(job, sources=(source,), tasks=tasks), execution, record)
            examples += examiner.examples
            skipped.merge(examiner.feed.skipped.plain())
            made += examiner.feed.made
            before = [examiner.ask()]
            for concept in job.concepts:
                changes = make_changes(chosen[source, concept], set_to=0.0)
                asked = {"before": before, "edit": [under(examiner, changes, PRODUCT)]}
                if seeds:
                    asked["random"] = controls(examiner, changes, PRODUCT, seeds)
                labels = {"run_id": record.run_id, "edit": f"{method}:{top}:{concept}", "concept": concept}
                rows += [{**labels, **row} for row in summarise(asked, concept)]
                progress(len({(r["source"], r["concept"]) for r in rows}), len(chosen))
        store_effects(record, examples, rows, skipped.plain(), made)
    return Evaluation(record.run_id, True, tuple(rows), skipped.plain())


def _surveyed(atlas: Atlas, job: Job, *, named: bool, method: str, model: str) -> Job:
    """The job with the concepts that the atlas has this method's maps of for every source, unless they were named."""
    have = [atlas.mapped(method, source=source, model=model) for source in job.sources]
    both = [c for c in job.concepts if all(c in concepts for concepts in have)]
    return job if named or not both else replace(job, concepts=tuple(both))


def averages(rows: Iterable[Mapping[str, Any]], metric: str = "accuracy") -> pa.Table:
    """The mean over concepts, and the worst concept, for every source, task, subset and condition."""
    groups: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    for row in rows:
        if row["metric"] == metric:
            group = groups.setdefault((row["source"], row["task"], row["subset"]), {})
            group.setdefault(row["condition"], []).append(row["value"])
    out = []
    for (source, task, subset), by_condition in sorted(groups.items()):
        shown: dict[str, Any] = {"source": source, "task": task, "subset": subset}
        shown |= {condition: f"{np.mean(values):.1%}" for condition, values in by_condition.items()}
        worst = max if subset == "concept" else min
        shown["worst_concept"] = f"{worst(by_condition['edit']):.1%}"
        shown["concepts"] = len(by_condition["edit"])
        out.append(shown)
    return pa.Table.from_pylist(out)


def pooled(rows: Iterable[Mapping[str, Any]], source: str, subset: str, condition: str) -> float:
    """The mean accuracy over concepts, all tasks together."""
    key = (source, POOLED, subset, condition, "accuracy")
    names = ("source", "task", "subset", "condition", "metric")
    return float(np.mean([r["value"] for r in rows if tuple(r[n] for n in names) == key]))
