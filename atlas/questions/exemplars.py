"""The examples on which a neuron has its largest values."""

from __future__ import annotations

from pathlib import Path

from atlas.query.answer import Answer
from atlas.query.map_spec import Coordinates
from atlas.query.option import described, required
from atlas.query.question import Question
from atlas.questions.neuron import Neuron


@described
class Exemplars(Coordinates, Question[Answer]):
    """The examples on which a neuron has its largest values, by source: value, place, prompt, answer, media, concepts.

    Raises:
        UsageError: not an address, or a neuron that the model does not have.
    """

    examples = ("atlas exemplars 3/117 --source image",)

    address: str = required("layer/index, for example 3/117.", argument=True, kw_only=False)

    def answer(self, path: Path) -> Answer:
        found = Neuron(self.address, **{name: getattr(self, name) for name in ("model", "dataset", "run")}).answer(path)
        rows = found.exemplars
        if self.source is not None:
            rows = rows.filter([source == self.source for source in rows["source"].to_pylist()])
        return Answer(rows, found.provenance, facts=found.facts)
