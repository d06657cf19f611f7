"""The runs of the atlas."""

from __future__ import annotations

from pathlib import Path

from atlas.query.answer import Answer
from atlas.query.option import described
from atlas.query.question import Question
from atlas.questions._lists import everything


@described
class Runs(Question[Answer]):
    """The runs of the atlas: what was done, with what, and what became of it."""

    examples = ("atlas runs ls",)

    def answer(self, path: Path) -> Answer:
        return everything(path, "runs")
