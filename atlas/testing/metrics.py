"""The contract of a metric (`ingest.evaluate.metric.Metric`): eight answers judged by their references."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from atlas.testing.contract import Entry, check_build, entry_of
from ingest.evaluate.metric import Judged, Metric

CAPTIONS: list[tuple[str, tuple[str, ...]]] = [
    ("a dog runs on the grass", ("a dog is running over the grass", "the brown dog plays outside", "dog on grass")),
    ("two cats sleep on a red sofa", ("two cats sleep on a red sofa",)),
    ("", ("a bird in a tree", "the bird sings")),
    ("the train, it seems, is late!", ("a train arrives at the station", "the train is late")),
    ("dog", ("a dog", "a cat", "dog", "dog", "dog")),
    ("grass grass grass the the", ("the dog sleeps on the grass", "a man with a hat")),
    ("  A Man With A Hat.  ", ("a man with a hat", "")),
    ("?!", ("nothing to see", "a man")),
]
CHOICES = [("A", ("A",)), ("b. the dog", ("B",)), ("", ("C",)), (" d", ("A",))] * 2


@dataclass(frozen=True, slots=True)
class Expected:
    """The expected values of a metric; see `check_metric`."""

    choices: bool = False
    lowest: float = 0.0
    highest: float = 1.0
    empty: float | None = 0.0
    best: float | None = 1.0
    understands: bool = True
    alone: bool = True


def check_metric(
    module_or_build: ModuleType | Callable[..., Metric],
    *,
    name: str | None = None,
    options: Mapping[str, Any] | None = None,
    **expected: Any,
) -> None:
    """Check a metric, given as its module or its `build`, with its default parameters or the given options.

    It gives one finite float64 value for each answer, under names that begin with its own, always the same; empty
    answers have values too; no answers give none; a reference itself is the best answer; each answer is judged alone.

    expected: choices=True, its answers are letters of choices. lowest, highest: the bounds, 0 and 1. empty: the value
    of an empty answer, 0, or None where that is not fixed. best: the value of an answer that is a reference, 1, or
    None. understands=False, its weights are random, so that it does not know the best answer. alone=False, an
    answer's value depends on the other answers.

    Raises:
        ContractError: the metric breaks its contract; the message names the metric and the fault.
    """
    entry = entry_of(module_or_build, name)
    check_build(entry)
    expectation = Expected(**expected)
    metric: Metric = entry.build(**(options or {}))
    judged = judged_answers(choices=expectation.choices)
    check_values(entry, metric, judged, expectation)
    check_empty(entry, metric, judged, expectation)
    if expectation.understands:
        check_best(entry, metric, judged, expectation)
    if expectation.alone:
        check_alone(entry, metric, judged)


def pictures(count: int) -> list[Image.Image]:
    """Small pictures of noise, always the same."""
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (12, 10, 3), dtype=np.uint8)) for _ in range(count)]


def judged_answers(*, choices: bool = False) -> list[Judged]:
    """Eight answers, each with references and a picture. choices: letters instead of captions."""
    cases = CHOICES if choices else CAPTIONS
    return [Judged(answer, references, image) for (answer, references), image in zip(cases, pictures(8), strict=True)]


def check_values(entry: Entry, metric: Metric, judged: Sequence[Judged], like: Expected) -> None:
    """One finite value for each answer, within the bounds, not all equal, the same every time."""
    values, again = metric.score(judged), metric.score(judged)
    entry.require(values, "it gives no values")
    for key, scores in values.items():
        entry.require(key.startswith(entry.name), f"its value '{key}' is not named after it")
        is_array = isinstance(scores, np.ndarray) and scores.dtype == np.float64
        entry.require(is_array, f"'{key}' is not a float64 array")
        entry.require(scores.shape == (len(judged),), f"'{key}' has shape {scores.shape} for {len(judged)} answers")
        entry.require(np.isfinite(scores).all(), f"'{key}' is not finite for every answer")
        within = scores.min() >= like.lowest and scores.max() <= like.highest
        bounds = f"[{like.lowest:g}, {like.highest:g}]"
        entry.require(within, f"'{key}' has values from {scores.min():g} to {scores.max():g}, outside {bounds}")
        entry.require(np.ptp(scores) > 0, f"'{key}' is {scores[0]:g} for right and wrong answers alike")
        entry.require(np.array_equal(scores, again[key]), f"'{key}' differs the second time")


def check_empty(entry: Entry, metric: Metric, judged: Sequence[Judged], like: Expected) -> None:
    """Empty answers have finite values, and no answers give empty arrays."""
    empty = [Judged(answer, one.references, one.image) for one in judged for answer in ("", " \n", "?!")]
    for key, scores in metric.score(empty).items():
        finite = scores.shape == (len(empty),) and bool(np.isfinite(scores).all())
        entry.require(finite, f"'{key}' is not finite for empty answers")
    for key, scores in metric.score([]).items():
        entry.require(scores.shape == (0,) and scores.dtype == np.float64, f"'{key}' of no answers is not empty")
    if like.empty is not None:
        (scores, *_) = metric.score([Judged("", ("C",), judged[0].image)]).values()
        entry.require(scores.tolist() == [like.empty], f"an empty answer has {scores.tolist()}, not {like.empty:g}")


def check_best(entry: Entry, metric: Metric, judged: Sequence[Judged], like: Expected) -> None:
    """A reference is at least as good as any answer, and better than some."""
    lower = bool(getattr(entry.module, "LOWER_IS_BETTER", False))
    single = [Judged(case.answer, case.references[:1], case.image) for case in judged]
    perfect = [Judged(case.references[0], case.references, case.image) for case in single]
    best, scores = metric.score(perfect), metric.score(single)
    for key, of_single in scores.items():
        better = of_single - best[key] if lower else best[key] - of_single
        entry.require((better >= -1e-6).all(), f"by '{key}' an answer is better than the reference itself")
        entry.require((better > 0.01).any(), f"by '{key}' a wrong answer is as good as the reference")
        if like.best is not None:
            close = np.allclose(best[key], like.best, atol=1e-6)
            entry.require(close, f"'{key}' of the reference itself is {best[key].min():g}, not {like.best:g}")


def check_alone(entry: Entry, metric: Metric, judged: Sequence[Judged]) -> None:
    """Other answers do not change an answer's value."""
    together, first, second = (metric.score(part) for part in (judged, judged[:4], judged[4:]))
    for key, scores in together.items():
        parts = np.concatenate([first[key], second[key]])
        entry.require(np.allclose(scores, parts, atol=1e-5), f"'{key}' of an answer depends on the other answers")
