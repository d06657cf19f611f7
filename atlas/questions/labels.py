"""The neurons that a run labelled."""

from __future__ import annotations

from pathlib import Path

from atlas.errors import UsageError
from atlas.neurons import Neuron
from atlas.query import labels
from atlas.query.answer import Answer
from atlas.query.option import described, option
from atlas.query.question import Question


@described
class Labels(Question[Answer]):
    """Every stored label: the rule that gave it, and how many neurons have it. Of one run, its neurons.

    The neurons of a run come highest score first; one with two labels has two rows. With `by_layer`, their distribution
    over the layers, and in `parts["overlaps"]` the neurons that have two labels. Of one `neuron`, every label that it
    has: run, model, rule, label, score, and how many neurons of the run have it.

    Raises:
        UsageError: no run with labels, or several, have the prefix; no such label; not an address.
    """

    examples = ("atlas labels show 3fa1 --label image --top 10",)

    run: str | None = option(
        "The run, by the beginning of its id; without it, every label.", default=None, argument=True, kw_only=False
    )
    label: str | None = option("Only this label.", default=None)
    by_layer: bool = option("Count the neurons of every layer and label instead.", default=False)
    neuron: str | None = option("Every label of this neuron, layer/index, by any run.", default=None)
    model: str | None = option("Of this model's neuron (`atlas models`).", "--model", "-m", default=None)
    top: int = option("How many neurons.", "--top", "-n", "--limit", default=20, least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.run is None and (self.label is not None or self.by_layer):
            raise UsageError("give the [[run]] of the labels (`atlas labels ls` lists them)")
        if self.neuron is not None and self.run is not None:
            raise UsageError("[[neuron]] asks for its labels by any run; leave out the [[run]]")
        if self.by_layer and self.label is not None:
            raise UsageError("[[by_layer]] counts every label; leave out [[label]]")

    def answer(self, path: Path) -> Answer:
        if self.neuron is not None:
            return Answer(labels.of_neuron(path, Neuron.parse(self.neuron), self.model))
        if self.run is None:
            return Answer(labels.listing(path))
        if not self.by_layer:
            return labels.labelled(path, self.run, self.label, top=self.top)
        counts, overlaps, run = labels.layers(path, self.run)
        notes = [
            f"{both['neurons']} neurons are both {both['first']} and {both['second']}" for both in overlaps.to_pylist()
        ]
        return Answer(counts, {"runs": [run]}, parts={"overlaps": overlaps}, notes=notes)
