"""How many neurons of each map pass a condition."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from atlas.errors import UsageError
from atlas.query.answer import Answer
from atlas.query.execute import count_passing
from atlas.query.find import NeuronQuery
from atlas.query.option import described
from atlas.query.question import Question
from atlas.query.selection_rules import Rule
from atlas.questions._conditions import Conditions
from atlas.store.database import open_readonly


@described
class Count(Conditions, Question[Answer]):
    """How many neurons of each map pass: what the maps differ in, passing, kept (all that could), neurons.

    The map of which most pass comes first.

    Raises:
        UsageError: something cannot be read, or the atlas has no such map.
    """

    examples = ("atlas count --score '>0.1'", "atlas count --concept dog --layers 2-3 --percentile '>=99'")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.given():
            raise UsageError(
                "give a condition on the neurons that count: [[score=>0.1]], [[token=bark]], [[where]] ..."
            )

    def any_found(self, answer: Answer) -> bool:
        """Whether any neuron passes; the answer has a row for every map."""
        return any(answer["passing"].to_pylist())

    def answer(self, path: Path) -> Answer:
        from atlas.edits.set_expression import members

        rule = Rule.parse(self.select) if self.select else None
        request = NeuronQuery(self.filter(), rule, limit=None)
        with open_readonly(path) as connection:
            return count_passing(connection, request, partial(members, path))
