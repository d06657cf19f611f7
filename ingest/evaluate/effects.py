"""Effects from the scores of several conditions: means with 95 % intervals by source, task and subset."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from atlas.stats.cross_ablation import ABOUT
from atlas.stats.intervals import LEAST, Interval, of_clusters
from atlas.store.arrow_types import arrow_schema
from atlas.store.database import open_readonly
from atlas.store.schema import effects
from ingest.data.examples import AUDIO, IMAGE, TEXT, VIDEO
from ingest.evaluate.teacher_forced import ACCURACY, KL, LOG_PROBABILITY, UNCHANGED, Scores

POOLED = "*"
"""The task of an effect that pools all tasks."""

RANDOM = "random"
"""The condition under which randomly drawn neurons are changed in place of the edit's."""

MODEL = "model"
"""The subset of an effect that concerns no example: how many parameters an edit changes, how long it took."""

SHARES = {ACCURACY, UNCHANGED, "success", "whole_success", "whole_unchanged", "said", "exact", "label"}
SHARES |= {"picture", "drawn", "became"}
"""Metrics that are 0 or 1: their intervals are those of a share."""


_FROM_0_TO_1 = (
    "wanted_probability",
    "said_probability",
    "drawn_probability",
    "region_overlap",
    "bleu1",
    "bleu2",
    "bleu3",
    "bleu4",
    "rouge_l",
    "meteor",
    "vqa",
    "vqa_any",
)
RANGES = {
    **dict.fromkeys((*_FROM_0_TO_1, "multiple_choice", "tfidf_cosine"), (0.0, 1.0)),
    **dict.fromkeys((KL, "wer"), (0.0, math.inf)),
    LOG_PROBABILITY: (-math.inf, 0.0),
    "cider": (0.0, 10.0),
}
"""The range of a metric's values; its intervals are cut off there."""


Group = tuple[str, str, str]
"""source, task (or POOLED), subset ("concept", "others", or "about:" and one of the other concepts)."""


def group_questions(scores: Scores, concept: str | None) -> dict[Group, np.ndarray]:
    """The indices of each group's questions. "others" are about another concept, in an example that does not mention
    this one; without a concept everything is "others"."""
    groups: dict[Group, list[int]] = {}
    for i, question in enumerate(scores.questions):
        if question.concept != concept and concept in question.mentioned:
            continue
        subset = "concept" if question.concept == concept else "others"
        for task in (question.task, POOLED):
            groups.setdefault((question.source, task, subset), []).append(i)
    return {key: np.array(index) for key, index in sorted(groups.items())}


def group_others(scores: Scores, concept: str) -> dict[Group, np.ndarray]:
    """The indices of the questions that `group_questions` calls "others", by the concept that they are about; all tasks
    together."""
    groups: dict[Group, list[int]] = {}
    for i, question in enumerate(scores.questions):
        if question.concept != concept and concept not in question.mentioned:
            groups.setdefault((question.source, POOLED, f"{ABOUT}{question.concept}"), []).append(i)
    return {key: np.array(index) for key, index in sorted(groups.items())}


def summarise(
    conditions: Mapping[str, Sequence[Scores]], concept: str | None, by_concept: Collection[str] = ()
) -> list[dict[str, Any]]:
    """One row for each group, condition and metric.

    conditions: name -> the scores, one for each seed. by_concept: the metrics of which every other concept has rows of
    its own besides (see `group_others`).
    """
    rows = []
    first = next(iter(conditions.values()))[0]  # every condition was asked the same
    groups, clusters = group_questions(first, concept), [question.cluster for question in first.questions]
    if by_concept and concept is not None:
        groups |= group_others(first, concept)
    for condition, repeats in conditions.items():
        for (source, task, subset), index in groups.items():
            for metric in repeats[0].values:
                if subset.startswith(ABOUT) and metric not in by_concept:
                    continue
                values = np.stack([s.values[metric][index] for s in repeats])
                measured = ~np.isnan(values).any(0)
                if not measured.any():
                    continue
                measured_clusters = [clusters[i] for i in index[measured]]
                interval = _interval(values[:, measured], measured_clusters, metric, drawn=condition == RANDOM)
                labels = {"source": source, "task": task, "subset": subset, "condition": condition, "metric": metric}
                mean = float(values[:, measured].mean())
                rows.append(
                    labels
                    | {"value": mean, "low": interval.low, "high": interval.high, "examples": int(measured.sum())}
                    | {"seeds": len(repeats), "clusters": interval.clusters, "effective": interval.effective}
                )
    return rows


def _interval(values: np.ndarray, clusters: Sequence[str], metric: str, *, drawn: bool) -> Interval:
    """The interval of the mean of (draws, examples) values; where neurons were drawn at random, over draws too."""
    bounds = RANGES.get(metric, (-math.inf, math.inf))
    return of_clusters(values, clusters, share=metric in SHARES, drawn=drawn, bounds=bounds)


def model_effect(condition: str, metric: str, value: float) -> dict[str, Any]:
    """A row for an effect that concerns no example."""
    row: dict[str, Any] = {"source": POOLED, "task": POOLED, "subset": MODEL, "condition": condition, "metric": metric}
    nothing = {"low": None, "high": None, "clusters": None, "effective": None}
    return row | {"value": value, "examples": 0, "seeds": 1} | nothing


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The stored effects of an edit. fresh: False where the same evaluation had been done before. skipped: what was
    left out and why (see `ingest.run.skipped.Skipped`). notes: remarks for the reader."""

    run_id: str
    fresh: bool
    rows: tuple[dict[str, Any], ...]
    skipped: Mapping[str, Any]
    notes: tuple[str, ...] = ()


def effects_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Effects as a run stores them."""
    return pa.Table.from_pylist(list(rows), schema=arrow_schema(effects))


def stored_effects(atlas: Path, run_id: str) -> tuple[dict[str, Any], ...]:
    """The effects of a finished run."""
    with open_readonly(atlas) as connection:
        query = "SELECT * FROM effects WHERE run_id = $run_id"
        return tuple(connection.sql(query, params={"run_id": run_id}).to_arrow_table().to_pylist())


def table(rows: Iterable[Mapping[str, Any]], metrics: Sequence[str] = (ACCURACY,)) -> pa.Table:
    """Effects as a table to read: one row for each group and metric, a column with intervals for each condition; shares
    in percent. With several metrics, all tasks are pooled."""
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    shown_rows = [row for row in rows if row["metric"] in metrics and row["subset"] != MODEL]
    several = len({row["metric"] for row in shown_rows}) > 1
    for row in shown_rows:
        if several and row["task"] != POOLED:
            continue
        key = (row["source"], row["task"], row["subset"], metrics.index(row["metric"]))
        first = {"source": key[0], "task": key[1], "subset": key[2]}
        if several:
            first = {"source": key[0], "subset": key[2], "metric": row["metric"]}
        counts = {"n": row["examples"], UNITS: _units(row), EFFECTIVE: None}
        cells = groups.setdefault(key, first | counts)
        effective_counts = [n for n in (cells[EFFECTIVE], row["effective"]) if n is not None]
        cells[EFFECTIVE] = round(min(effective_counts), 1) if effective_counts else None
        cells[row["condition"]] = _cell(row)
    return pa.Table.from_pylist([groups[key] for key in sorted(groups)])


UNITS, EFFECTIVE = "of", "n_eff"
"""The columns with how many pictures, facts, ... the examples are of, and the effective number of independent examples
(the smallest over conditions)."""

UNIT = {TEXT: "fact", IMAGE: "picture", AUDIO: "recording", VIDEO: "video"}


def _units(row: Mapping[str, Any]) -> str:
    """The units that an interval takes to be independent, for example "3 facts"."""
    if row["clusters"] is None:  # stored before they were counted
        return ""
    unit = UNIT.get(str(row["source"]), "cluster")
    return f"{row['clusters']} {unit}{'' if row['clusters'] == 1 else 's'}"


def _cell(row: Mapping[str, Any]) -> str:
    """A value with its interval: `93.9% [88.8, 97.1]`; where there is none, the column UNITS says why, or the cell."""
    is_share = row["metric"] in SHARES
    value, low, high = (_number(row[name], is_share) for name in ("value", "low", "high"))
    value += "%" if is_share else ""
    if row["low"] is not None:
        return f"{value} [{low}, {high}]"
    few_draws = row["condition"] == RANDOM and row["seeds"] < LEAST
    return f"{value} [n/a: {row['seeds']} draw{'' if row['seeds'] == 1 else 's'}]" if few_draws else f"{value} [n/a]"


def _number(value: float | None, is_share: bool) -> str:
    """Three digits; of a share, percent with one decimal where it is not whole."""
    if value is None:
        return ""
    return f"{100 * value:.1f}".removesuffix(".0") if is_share else f"{value:.3g}"
