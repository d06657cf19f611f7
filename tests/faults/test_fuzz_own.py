"""Files that a user writes by hand, with things in them that nobody would write: examples, or one of our own errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fuzzing import a_file, feed, objects

pytestmark = pytest.mark.filterwarnings("ignore::atlas.errors.AtlasWarning")  # what was left out is said
SLOW = pytest.mark.parametrize("number", [500, pytest.param(10_000, marks=pytest.mark.nightly)])
PROMPT = {"prompt": "what does it do?", "answer": "it barks", "concepts": ["dog", "pet"], "words": "barks", "task": "t"}


def every(found: Any) -> int:
    [source] = found.tasks
    asked = {"concepts": list(found.concepts), "tasks": found.tasks[source], "per_concept": 9, "seed": 0}
    return len([e for split in ("find", "held_out") for e in found.examples(source=source, split=split, **asked)])


@SLOW
def test_prompts(number: int, tmp_path: Path) -> None:
    from ingest.datasets.prompts import build

    file = tmp_path / "x.jsonl"
    row = PROMPT | {"references": ["barks", "it barks"], "fact": 7}
    assert feed(number, objects(row), a_file(file, lambda: every(build(str(file)))), None) > 20


@SLOW
def test_a_table_of_pictures(number: int, tmp_path: Path) -> None:
    from PIL import Image

    from ingest.datasets.folder import build

    Image.new("RGB", (4, 4)).save(tmp_path / "1.png")
    row = PROMPT | {"file_name": "1.png"}
    read = a_file(tmp_path / "x.jsonl", lambda: every(build(str(tmp_path))))
    assert feed(number, objects(row), read, None) > 20
