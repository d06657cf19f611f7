"""Coordinates of evaluations of methods, for questions about measured effects."""

from __future__ import annotations

from atlas.query.map_spec import by_place
from atlas.query.option import described


@described
class OfEvaluations:
    """Coordinates that every evaluation of methods has; an evaluation covers all of its concepts."""

    model: str | None = by_place("model", default=None, kw_only=True)
    dataset: str | None = by_place("dataset", default=None, kw_only=True)
    source: str | None = by_place("source", default=None, kw_only=True)
    reduce: str | None = by_place("reduce", default=None, kw_only=True)
