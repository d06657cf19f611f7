"""Which evaluations of methods: the coordinates that a question about what was measured has."""

from __future__ import annotations

from atlas.query.map_spec import by_place
from atlas.query.option import described


@described
class OfEvaluations:
    """Coordinates that every evaluation of methods has; it is about all of its concepts together."""

    model: str | None = by_place("model", default=None, kw_only=True)
    dataset: str | None = by_place("dataset", default=None, kw_only=True)
    source: str | None = by_place("source", default=None, kw_only=True)
    reduce: str | None = by_place("reduce", default=None, kw_only=True)
