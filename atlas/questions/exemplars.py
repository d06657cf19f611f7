"""The examples on which a neuron has its largest values."""

from __future__ import annotations

from pathlib import Path

from atlas.errors import unknown
from atlas.query.map_spec import by_place
from atlas.query.option import described, required
from atlas.query.question import Question
from atlas.questions._strongest import Strongest
from atlas.questions.neuron import Neuron


@described
class Exemplars(Question[Strongest]):
    """The examples on which a neuron has its largest values, by source: value, place, prompt, answer, media, concepts.

    Raises:
        UsageError: not an address, a neuron that the model does not have, or a source without examples.
    """

    examples = ("atlas exemplars 3/117 --source image",)

    address: str = required("layer/index, for example 3/117.", argument=True, kw_only=False)
    model: str | None = by_place("model", default=None, kw_only=True)
    source: str | None = by_place("source", default=None, kw_only=True)

    def answer(self, path: Path) -> Strongest:
        strongest = Neuron(self.address, model=self.model).answer(path).exemplars
        if self.source is not None:
            sources = strongest["source"].to_pylist()
            if self.source not in sources:
                raise unknown("source with examples of this neuron", self.source, sources, "atlas exemplars")
            strongest.table = strongest.table.filter([source == self.source for source in sources])
        return strongest
