"""For the best neurons of one model, the corresponding neurons of another."""

from __future__ import annotations

from pathlib import Path

from atlas.errors import UsageError
from atlas.query.answer import Answer
from atlas.query.map_spec import Coordinates
from atlas.query.option import described, option, required
from atlas.query.question import Question
from atlas.store.database import open_readonly
from atlas.vectors.matching import match


@described
class Match(Coordinates, Question[Answer]):
    """For a concept's best neurons in one model, the neurons of another that respond alike to the concepts of both.

    Columns: component, layer, neuron, rank (in the concept's map), match_layer, match_neuron, similarity (the cosine of
    their profiles), mutual (whether the match's nearest in the first model is this neuron), null (the best similarity
    when the second model's concepts are permuted, the mean of 20 draws of `seed`), p (the share of draws, and of the
    real one, with a similarity at least as large), tokens and match_tokens.

    Raises:
        UsageError: an unknown model or map, maps that keep only their best scores, or fewer than 3 concepts of both.
    """

    examples = ("atlas match tiny-llava other-llava --concept dog --method contribution --top 5",)

    first: str = required("A model's name, or the beginning of its fingerprint.", argument=True, kw_only=False)
    second: str = required("The model to find its neurons in.", argument=True, kw_only=False)
    top: int = option("How many neurons.", "--top", "-n", "--limit", default=10, least=1)
    seed: int = option("Of the permutations behind null and p.", default=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model is not None:
            raise UsageError("two models are matched; leave out [[model]]")
        if self.concept is None:
            raise UsageError("give the [[concept]] whose best neurons of the first model are matched")

    def answer(self, path: Path) -> Answer:
        with open_readonly(path) as connection:
            matched = match(connection, self.first, self.second, self.maps(), self.top, self.seed)
        facts = {"concepts": list(matched.concepts)}
        notes = [f"{len(matched.concepts)} concepts with maps of both models"]
        return Answer(matched.rows, matched.provenance, facts=facts, notes=notes)
