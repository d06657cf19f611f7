"""Scores of several conditions as effects: means with 95 % intervals, by source, task and subset, stored and shown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from atlas.database import reading
from atlas.schema import arrow_schema, effects
from ingest import tables
from ingest.examiner import ACCURACY, KL, UNCHANGED, Scores
from ingest.examples import Example
from ingest.feed import Response
from ingest.record import Record

POOLED = "*"
"""The task of an effect that pools all tasks."""

MODEL = "model"
"""The subset of an effect that is about no example: how many parameters an edit changes, how long it took."""

SHARES = {ACCURACY, UNCHANGED, "success", "whole_success", "whole_unchanged", "said", "exact", "label"}
SHARES |= {"picture", "drawn", "became"}
"""Metrics that are 0 or 1: their intervals are those of a share."""


UNIT = (
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
    **dict.fromkeys((*UNIT, "multiple_choice", "tfidf_cosine"), (0.0, 1.0)),
    **dict.fromkeys((KL, "wer"), (0.0, math.inf)),
    "cider": (0.0, 10.0),
}
"""What values of a metric can be; its interval ends there."""


def wilson(right: float, count: int) -> tuple[float, float]:
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
            for metric in repeats[0].values:
                each = [s.values[metric][index] for s in repeats]
                each = [e[~np.isnan(e)] for e in each]
                if not len(each[0]):
                    continue
                value, (low, high) = _mean(each, metric)
                row: dict[str, Any] = {
                    "source": source,
                    "task": task,
                    "subset": subset,
                    "condition": condition,
                    "metric": metric,
                }
                row |= {"value": value, "low": low, "high": high, "examples": len(each[0]), "seeds": len(repeats)}
                rows.append(row)
    return rows


def _mean(each: Sequence[np.ndarray], metric: str) -> tuple[float, tuple[float, float]]:
    """The mean over seeds of the means over examples, and its interval: over the examples, or over the seeds
    where that is wider."""
    means = [float(e.mean()) for e in each]
    mean = float(np.mean(means))
    over = [e for e in each if len(e) == len(each[0])]
    if metric in SHARES:
        low, high = wilson(mean * len(each[0]), len(each[0]))
    else:
        low, high = spread(list(np.mean(over, axis=0)))
    if len(means) > 1:  # the examples are a sample, and so are the draws: the wider counts
        among = spread(means)
        low, high = min(low, among[0]), max(high, among[1])
    least, most = (0.0, 1.0) if metric in SHARES else RANGES.get(metric, (-math.inf, math.inf))
    return mean, (max(least, low), min(most, high))


def of_model(condition: str, metric: str, value: float) -> dict[str, Any]:
    """The effect that is about no example."""
    row: dict[str, Any] = {"source": POOLED, "task": POOLED, "subset": MODEL, "condition": condition, "metric": metric}
    return row | {"value": value, "low": None, "high": None, "examples": 0, "seeds": 1}


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The stored effects of an edit. fresh: False where the same evaluation had been done before. skipped: what was
    left out and why (see `ingest.feed.Skipped`). notes: what else there is to say."""

    run_id: str
    fresh: bool
    rows: tuple[dict[str, Any], ...]
    skipped: Mapping[str, Any]
    notes: tuple[str, ...] = ()


def store_effects(
    record: Record,
    examples: Sequence[Example],
    found: Sequence[Mapping[str, Any]],
    skipped: Mapping[str, Any],
    made: Sequence[Response],
) -> None:
    """Finish a run whose result is effects. made: the answers that the model gave for it."""
    content = {
        "examples": tables.examples_table(list({e.id: e for e in examples}.values())),
        "responses": tables.responses_table(made),
        "effects": pa.Table.from_pylist(list(found), schema=arrow_schema(effects)),
    }
    record.finish({"examples": len(examples), "skipped": skipped}, content)


def stored_effects(atlas: Path, run_id: str) -> tuple[dict[str, Any], ...]:
    """The effects of a run that is done."""
    with reading(atlas) as connection:
        query = "SELECT * FROM effects WHERE run_id = $run_id"
        return tuple(connection.sql(query, params={"run_id": run_id}).to_arrow_table().to_pylist())


def table(rows: Iterable[Mapping[str, Any]], metrics: Sequence[str] = (ACCURACY,)) -> pa.Table:
    """Effects for a person: one row a group and metric, a column for each condition, with intervals; shares in
    percent. Of several metrics all tasks together."""
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    mine = [row for row in rows if row["metric"] in metrics and row["subset"] != MODEL]
    several = len({row["metric"] for row in mine}) > 1
    for row in mine:
        if several and row["task"] != POOLED:
            continue
        key = (row["source"], row["task"], row["subset"], metrics.index(row["metric"]))
        first = {"source": key[0], "task": key[1], "subset": key[2]}
        if several:
            first = {"source": key[0], "subset": key[2], "metric": row["metric"]}
        groups.setdefault(key, {**first, "n": row["examples"]})[row["condition"]] = _cell(row)
    return pa.Table.from_pylist([groups[key] for key in sorted(groups)])


def _cell(row: Mapping[str, Any]) -> str:
    if row["metric"] in SHARES:
        return f"{row['value']:.1%} [{row['low']:.1%}, {row['high']:.1%}]"
    return f"{row['value']:.3g} [{row['low']:.3g}, {row['high']:.3g}]"
