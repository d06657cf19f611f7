"""What `shared`, `only` and `layers` have in common: two of a kind, and what each null says of the neurons of both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from atlas.errors import UsageError
from atlas.stats.overlap import ModalityOverlap, SelectionOverlap
from atlas.stats.overlap_null import null_lines, suffixed


def require_one_form(question: object, names: Sequence[str]) -> None:
    """Refuse a name that is given both as one (`source`) and as several (`sources`).

    Raises:
        UsageError: the first that is.
    """
    for name in names:
        if getattr(question, name) and getattr(question, f"{name}s"):
            raise UsageError(f"[[{name}]] and [[{name}s]] both say what {name} is; give one of them")


def facts_of(found: ModalityOverlap | SelectionOverlap) -> dict[str, Any]:
    """The statistics by their names in an answer, what matched neurons have in common, and the verdict."""
    statistics: dict[str, Any] = {suffixed(name): value for name, value in found.statistics.items()}
    return statistics | {"matched": found.matched, "verdict": found.verdict}


def lines_of(found: ModalityOverlap | SelectionOverlap) -> list[str]:
    """What each null expects, and the verdict, for a person."""
    return [*null_lines(found.statistics, found.matched), f"verdict: {found.verdict}"]
