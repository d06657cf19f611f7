"""What a run left out, in sentences: nothing is dropped silently."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

SHOWN = 5
"""Media that are named one by one."""

NAMED = "([[where_named=prompt]] takes only those that do)"
LEFT_OUT = (
    (
        "unmentioned",
        "answer does not mention it and was left out",
        "answers do not mention it and were left out",
    ),
    (
        "unplaced",
        "picture does not say where it is and was left out",
        "pictures do not say where it is and were left out",
    ),
    (
        "unnamed",
        f"prompt does not name it and was left out {NAMED}",
        f"prompts do not name it and were left out {NAMED}",
    ),
    (
        "rewritten",
        "prompt is changed by the tokenizer, so that the place of its name is not known, and was left out",
        "prompts are changed by the tokenizer, so that the place of its name is not known, and were left out",
    ),
    (
        "undrawn",
        "answer has no picture and was left out",
        "answers have no picture and were left out",
    ),
)
"""What is counted by concept, and how it is said of one example and of several."""


def left_out(skipped: Mapping[str, Any] | None, atlas: Path, run_id: str) -> list[str]:
    """One sentence for each medium, up to SHOWN, and for each concept whose examples were left out.

    skipped: as a run's outcome has it; see `ingest.run.encode_examples.Skipped`.
    """
    if not skipped:
        return []
    media = list(skipped["media"].items())
    lines = [f"skipped {pointer}: {reason}" for pointer, reason in media[:SHOWN]]
    if len(media) > SHOWN:
        manifest = atlas / "runs" / run_id / "manifest.json"
        lines.append(f"skipped {len(media) - SHOWN} more media ({manifest} has them all, under outcome)")
    for key, one, several in LEFT_OUT:
        lines += [
            f"{concept}: {count} {one if count == 1 else several}" for concept, count in skipped.get(key, {}).items()
        ]
    return lines
