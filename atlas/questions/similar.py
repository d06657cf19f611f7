"""The neurons most like one."""

from __future__ import annotations

from pathlib import Path

from atlas.errors import UsageError
from atlas.neurons import Neuron, no_such_neuron
from atlas.query.neuron_set import NeuronSet
from atlas.query.option import described, option, required
from atlas.query.question import Question
from atlas.store.database import open_readonly
from atlas.vectors.neighbours import near_vector
from atlas.vectors.spaces import choose_space


@described
class Similar(Question[NeuronSet]):
    """The neurons most like one: by what they write, by their scores over concepts, or by their words.

    similarity: the cosine of their vectors in the space.

    Raises:
        UsageError: no such neuron, a space that was never built, or a neuron whose vector is zeros.
    """

    examples = ("atlas similar 3/117 --space profile --top 5",)

    address: str | Neuron = required("layer/index, for example 3/117.", argument=True, kw_only=False)
    space: str = option("decoded, direction or profile.", default="direction", kw_only=False)
    model: str | None = option("The model's name, or the beginning of its fingerprint.", "--model", "-m", default=None)
    run: str | None = option("The run of vectors, by the beginning of its id.", default=None)
    top: int = option("How many neurons.", "--top", "-n", "--limit", default=10, least=1)

    def answer(self, path: Path) -> NeuronSet:
        from atlas.vectors.nearest import stored_vectors

        neuron = Neuron.parse(self.address) if isinstance(self.address, str) else self.address
        with open_readonly(path) as connection:
            chosen, defaults = choose_space(connection, self.space, self.model, run=self.run)
            at = [(neuron.component, neuron.layer, neuron.index)]
            try:
                vector = stored_vectors(connection, chosen.run_id, at)[0]
            except UsageError:
                model = chosen.model
                raise no_such_neuron(neuron, model["name"], model["layers"], model["width"]) from None
            if not vector.any():
                raise UsageError(
                    f"neuron {neuron} cannot be compared in the space '{self.space}', where its vector is zeros; "
                    "choose another [[space]]"
                )
        return near_vector(path, vector, chosen, top=self.top, defaults=defaults, skip=neuron)
