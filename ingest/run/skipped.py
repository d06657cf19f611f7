"""What a run leaves out, counted by why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

SOMETIMES = ("unnamed", "rewritten", "undrawn", "ungridded")
"""What is counted only where there is any."""


@dataclass
class Skipped:
    """What was left out and why.

    unmentioned: concepts whose words the answer lacks. unplaced: concepts whose place in the picture is needed and not
    known; ungridded: those of pictures whose tokens have no known place in them. unnamed: concepts that the prompt does
    not name, where that is needed; rewritten: those of prompts that the tokenizer changes, so that this cannot be told.
    undrawn: requested concepts of which no picture was drawn; a count each. media: pointer -> error.
    """

    unmentioned: Counter[str] = field(default_factory=Counter)
    unplaced: Counter[str] = field(default_factory=Counter)
    unnamed: Counter[str] = field(default_factory=Counter)
    rewritten: Counter[str] = field(default_factory=Counter)
    undrawn: Counter[str] = field(default_factory=Counter)
    ungridded: Counter[str] = field(default_factory=Counter)
    media: dict[str, str] = field(default_factory=dict)

    def merge(self, counts: Mapping[str, Mapping[str, object]]) -> None:
        """Add the counts and errors of another run, as `plain` gives them."""
        self.unmentioned.update({k: int(str(v)) for k, v in counts["unmentioned"].items()})
        self.unplaced.update({k: int(str(v)) for k, v in counts["unplaced"].items()})
        for name in SOMETIMES:
            getattr(self, name).update({k: int(str(v)) for k, v in counts.get(name, {}).items()})
        self.media.update({k: str(v) for k, v in counts["media"].items()})

    def plain(self) -> dict[str, dict[str, object]]:
        """All of it as JSON, sorted by name."""
        counted = {name: dict(sorted(getattr(self, name).items())) for name in ("unmentioned", "unplaced")}
        counted |= {n: dict(sorted(c.items())) for n in SOMETIMES if (c := getattr(self, n))}
        return {**counted, "media": dict(sorted(self.media.items()))}
