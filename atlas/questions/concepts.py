"""The concepts of the atlas."""

from __future__ import annotations

from pathlib import Path

from atlas.query.answer import Answer
from atlas.query.option import described
from atlas.query.question import Question
from atlas.questions._lists import everything


@described
class Concepts(Question[Answer]):
    """The concepts of the atlas, with their sources and methods; those of most maps first."""

    examples = ("atlas concepts",)

    def answer(self, path: Path) -> Answer:
        return everything(path, "concepts")
