"""How many of their best neurons every two concepts share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from atlas.errors import UsageError
from atlas.query.amount import rule_of
from atlas.query.answer import Answer
from atlas.query.map_spec import Coordinates
from atlas.query.option import described, option
from atlas.query.question import Question
from atlas.query.resolve_maps import choose_concepts, provenance_of, top_of
from atlas.questions._overlaps import named
from atlas.stats.concept_pairs import concept_pairs
from atlas.store.database import open_readonly


@described
class ConceptMatrix(Coordinates, Question[Answer]):
    """How many of their best neurons every two concepts share: one row a pair, those that share most first.

    shared: how many of the top of either; expected, lift and p: against any neurons; with _matched, against neurons of
    the same layers and of about the same mean |activation|, where the maps score every neuron. q: the false discovery
    rate over the pairs. Facts: top; concepts, in the order of their clustering (average linkage of shared neurons).

    What ablating one concept's neurons does to each other concept: `atlas cross-ablation`.

    Raises:
        UsageError: a map that the atlas does not have, maps of fewer than two concepts, or a top they do not keep.
    """

    examples = ("atlas concept-matrix --method contribution --source image --top 40",)

    concepts: str | Sequence[str] = option("all, or several: dog,cat,horse.", default="all")
    top: int | str = option(
        "How many of the best neurons of each concept: 40, or 1%.", "--top", "-n", default=40, least=1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.concept is not None:
            raise UsageError("concepts are compared with each other; give [[concepts=dog,cat]] instead")
        rule_of(self.top)

    def answer(self, path: Path) -> Answer:
        with open_readonly(path) as connection:
            chosen = choose_concepts(connection, self.maps(), named(self.concepts))
            if len(chosen) < 2:
                raise UsageError("a matrix needs maps of two concepts or more; `atlas concepts` lists what is stored")
            top = top_of(chosen, self.top)
            rows, matched, order = concept_pairs(connection, chosen, top)
        facts = {"top": top, "concepts": order, "matched": matched}
        notes = [f"{len(order)} concepts, the best {top} neurons of each; q is the false discovery rate over the pairs"]
        if matched:
            notes.append(f"matched: neurons of the same {matched}")
        return Answer(rows, provenance_of(chosen, {"top": top}), facts=facts, notes=notes)
