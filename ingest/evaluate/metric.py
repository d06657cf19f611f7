"""Answers judged by metrics: a metric's input and output, and how metrics are found by name.

Every file of `ingest/metrics/` is one metric. A metric may have several values (`bleu` has bleu1 to bleu4), each with
one number an answer; the mean over answers is reported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

import ingest.metrics
from atlas import registry
from atlas.errors import UsageError

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, slots=True)
class Judged:
    """One generated answer and what it is judged by."""

    answer: str
    references: tuple[str, ...]
    """At least one."""
    image: Image | None = None
    """For the metrics that look at it."""

    def __post_init__(self) -> None:
        if not self.references:
            raise ValueError("an answer is judged by at least one reference")


class Metric(Protocol):
    """Judges generated answers."""

    def score(self, judged: Sequence[Judged]) -> dict[str, np.ndarray]:
        """Name of the value -> (answers,) float64."""
        ...


def load_metrics(names: Sequence[str], options: Mapping[str, Mapping[str, Any]]) -> dict[str, Metric]:
    """The metrics with these names, each built with its own options, in the order given.

    Raises:
        UsageError: no metric or option of that name, or options for a metric that is not among the names.
        Unsupported: a package or its data is missing; the message says what to type.
    """
    if unused := sorted(set(options) - set(names)):
        raise UsageError(f"options for '{unused[0]}', which is not among the metrics: {', '.join(names) or 'none'}")
    loaded: dict[str, Metric] = {}
    for name in names:
        build = registry.load(ingest.metrics, name).build
        loaded[name] = build(**registry.resolve(name, build, dict(options.get(name, {}))))
    return loaded


def judge(metrics: Mapping[str, Metric], judged: Sequence[Judged]) -> dict[str, np.ndarray]:
    """Every value of every metric: name -> (answers,) float64."""
    values_by_name: dict[str, np.ndarray] = {}
    for name, metric in metrics.items():
        values = metric.score(judged)
        if clash := set(values) & set(values_by_name):
            raise ValueError(f"{name} has a value that another metric has too: {', '.join(sorted(clash))}")
        values_by_name |= values
    return values_by_name
