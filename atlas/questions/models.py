"""The models of the atlas."""

from __future__ import annotations

from pathlib import Path

from atlas.query.answer import Answer
from atlas.query.option import described
from atlas.query.question import Question
from atlas.questions._lists import everything


@described
class Models(Question[Answer]):
    """The models of the atlas: name, revision, layers, width, neurons, fingerprint."""

    examples = ("atlas models",)

    def answer(self, path: Path) -> Answer:
        return everything(path, "models")
