"""Coordinates of evaluations of methods, for questions about measured effects."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from atlas.errors import UsageError
from atlas.query.map_spec import MapSpec, by_place
from atlas.query.option import described, option
from atlas.stats.leaderboard import METRICS

if TYPE_CHECKING:
    import pyarrow as pa


def choosing(chosen: list[str], ask: Callable[[MapSpec], pa.Table]) -> Callable[[MapSpec], pa.Table]:
    """`ask`, which notes in `chosen` what it filled in, for one model and dataset after another until one has an
    answer: of those without, no note stays."""

    def begun_anew(spec: MapSpec) -> pa.Table:
        chosen.clear()
        return ask(spec)

    return begun_anew


@described
class OfEvaluations:
    """Coordinates that every evaluation of methods has; an evaluation covers all of its concepts."""

    model: str | None = by_place("model", default=None, kw_only=True)
    dataset: str | None = by_place("dataset", default=None, kw_only=True)
    source: str | None = by_place("source", default=None, kw_only=True)
    reduce: str | None = by_place("reduce", default=None, kw_only=True)
    metric: str | None = option(
        "accuracy or log_probability. [default: accuracy, where the unedited model has half right]", default=None
    )

    def require_metric(self) -> None:
        """Raise UsageError where the metric is none of METRICS."""
        if self.metric not in (None, *METRICS):
            raise UsageError(f"[[metric]] is {' or '.join(METRICS)}, not '{self.metric}'")
