"""What a run left out, in sentences: nothing is dropped silently."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

SHOWN = 5
"""Media that are named one by one."""

EACH = 3
"""Concepts that have a line each; of more, one line counts all."""

NAMED = "([[where_named=prompt]] takes only those that do)"
LEFT_OUT = (
    ("unmentioned", "answer does not mention it", "answers do not mention {it}", ""),
    ("unplaced", "picture does not say where it is", "pictures do not say where {it} is", ""),
    ("ungridded", "picture's tokens have no known place in it", "pictures' tokens have no known place in them", ""),
    ("unnamed", "prompt does not name it", "prompts do not name {it}", f" {NAMED}"),
    ("rewritten", "prompt is changed by the tokenizer", "prompts are changed by the tokenizer", ""),
    ("undrawn", "answer has no picture", "answers have no picture", ""),
)
"""What is counted by concept: how it is said of one example and of several, and what to do."""


def left_out(skipped: Mapping[str, Any] | None, atlas: Path, run_id: str) -> list[str]:
    """One sentence for each medium, up to SHOWN, and for each concept whose examples were left out.

    skipped: as a run's outcome has it; see `ingest.run.skipped.Skipped`.
    """
    if not skipped:
        return []
    media = list(skipped["media"].items())
    lines = [f"skipped {pointer}: {reason}" for pointer, reason in media[:SHOWN]]
    if len(media) > SHOWN:
        manifest = atlas / "runs" / run_id / "manifest.json"
        lines.append(f"skipped {len(media) - SHOWN} more media ({manifest} has them all, under outcome)")
    for key, one, several, hint in LEFT_OUT:
        lines += _sentences(skipped.get(key, {}), one, several, hint)
    return lines


def _sentences(counts: Mapping[str, int], one: str, several: str, hint: str) -> list[str]:
    if len(counts) > EACH:
        most = sorted(counts.items(), key=lambda item: -item[1])
        said = several.format(it="their concept")
        names = ", ".join(f"{concept} {count}" for concept, count in most)
        return [f"{sum(counts.values()):,} {said} and were left out{hint}: {names}"]
    return [
        f"{concept}: {count} {one if count == 1 else several.format(it='it')} and {'was' if count == 1 else 'were'} "
        f"left out{hint}"
        for concept, count in counts.items()
    ]
