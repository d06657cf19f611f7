"""The datasets of the atlas."""

from __future__ import annotations

from pathlib import Path

from atlas.query.answer import Answer
from atlas.query.option import described
from atlas.query.question import Question
from atlas.questions._lists import everything


@described
class Datasets(Question[Answer]):
    """The datasets of the atlas: name, revision, licence, path."""

    examples = ("atlas datasets",)

    def answer(self, path: Path) -> Answer:
        return everything(path, "datasets")
