"""The stored edits."""

from __future__ import annotations

from pathlib import Path

from atlas.neurons import Neuron
from atlas.query import statements
from atlas.query.answer import Answer
from atlas.query.option import described, option
from atlas.query.question import Question
from atlas.questions._lists import everything
from atlas.store.database import open_readonly


@described
class Edits(Question[Answer]):
    """The stored edits: concept, how many changes, the solver that found them, model, date, note.

    Of one neuron, the edits that change it, with what becomes of its value: x <- gain * x + bias, where.

    Raises:
        UsageError: not an address.
    """

    examples = ("atlas edit ls", "atlas edit ls --neuron 3/117")

    neuron: str | None = option("Only edits that change this neuron: layer/index.", default=None)
    model: str | None = option("Of this model (`atlas models`).", "--model", "-m", default=None)

    def answer(self, path: Path) -> Answer:
        if self.neuron is None and self.model is None:
            return everything(path, "edits")
        neuron = None if self.neuron is None else Neuron.parse(self.neuron)
        statement = statements.edits_of(neuron, self.model)
        with open_readonly(path) as connection:
            return Answer(statement.run(connection), sql=statement.explained())
