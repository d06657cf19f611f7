"""Shared by `shared`, `only` and `layers`: their checks, and the statistics of an overlap for a person."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from atlas.errors import UsageError
from atlas.query.given import several
from atlas.stats.overlap import ModalityOverlap, SelectionOverlap
from atlas.stats.overlap_null import null_lines, suffixed


def require_singular_or_plural(question: object, names: Sequence[str]) -> None:
    """Refuse a name that is given both as one (`source`) and as several (`sources`).

    Raises:
        UsageError: with the first such name.
    """
    for name in names:
        if getattr(question, name) and getattr(question, f"{name}s"):
            raise UsageError(f"[[{name}]] and [[{name}s]] both say what {name} is; give one of them")


def named(concepts: str | Sequence[str]) -> tuple[str, ...]:
    """The concepts that are asked for, of one text those between commas; none where it is all of them.

    >>> named("dog,cat"), named(("dog",)), named("all")
    (('dog', 'cat'), ('dog',), ())
    """
    names = several(concepts)
    return () if names == ("all",) else names


def smaller_top(name: str, chosen: float | None, top: float | None) -> list[str]:
    """A line where a top has fewer neurons than were asked for: those whose score is 0 are in none (`placed`)."""
    if (chosen or 0) >= (top or 0):
        return []
    return [f"  (the top of {name} has {chosen}: no other neuron of its map has a score above 0)"]


def facts_of(overlap: ModalityOverlap | SelectionOverlap) -> dict[str, Any]:
    """The statistics by their names in an answer, what matched neurons have in common, and the verdict."""
    statistics: dict[str, Any] = {suffixed(name): value for name, value in overlap.statistics.items()}
    return statistics | {"matched": overlap.matched, "verdict": overlap.verdict}


def lines_of(overlap: ModalityOverlap | SelectionOverlap) -> list[str]:
    """Lines with what each null expects, and the verdict."""
    return [*null_lines(overlap.statistics, overlap.matched), f"verdict: {overlap.verdict}"]
