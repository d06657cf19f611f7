"""The stored edits."""

from __future__ import annotations

from pathlib import Path

from atlas.query.answer import Answer
from atlas.query.option import described
from atlas.query.question import Question
from atlas.questions._lists import everything


@described
class Edits(Question[Answer]):
    """The stored edits: concept, how many changes, the solver that found them, model, date, note."""

    examples = ("atlas edit ls",)

    def answer(self, path: Path) -> Answer:
        return everything(path, "edits")
