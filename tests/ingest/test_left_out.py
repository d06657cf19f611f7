"""What a run left out, in sentences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ingest.requests.left_out import EACH, left_out


def said(**skipped: Any) -> list[str]:
    return left_out({"media": {}, **skipped}, Path("x.atlas"), "0" * 32)


def test_few_concepts_have_a_line_each() -> None:
    assert said(unmentioned={"dog": 1, "cat": 3}) == [
        "dog: 1 answer does not mention it and was left out",
        "cat: 3 answers do not mention it and were left out",
    ]


def test_many_concepts_are_counted_in_one_line() -> None:
    counts = {f"c{n}": n for n in range(1, EACH + 2)}
    (line,) = said(unnamed=counts)
    assert line.startswith(f"{sum(counts.values())} prompts do not name their concept and were left out ([[where_named")
    assert line.endswith(": c4 4, c3 3, c2 2, c1 1")


def test_nothing_is_said_where_nothing_was_left_out() -> None:
    assert left_out(None, Path("x.atlas"), "0" * 32) == [] == said()
