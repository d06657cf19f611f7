"""Which neurons two or more sets have in common, and which only some."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from atlas.errors import UsageError
from atlas.query import statements
from atlas.query.amount import rule_of
from atlas.query.answer import Answer
from atlas.query.map_spec import OfConcept
from atlas.query.option import described, option
from atlas.query.provenance import Provenance
from atlas.query.question import Question
from atlas.query.resolve_maps import StoredMap, choose_concepts, choose_several, provenance_of, top_of
from atlas.query.selection_rules import Rule
from atlas.questions._overlaps import require_singular_or_plural
from atlas.stats.chosen_sets import ChosenSets
from atlas.stats.set_overlap import intersections
from atlas.store.database import open_readonly

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection

SIDES = ("concept", "method", "source", "target")
MOST = 8
"""Sets, of which there are 255 combinations."""


@described
class Overlap(OfConcept, Question[Answer]):
    """How many neurons are in exactly which of several sets: the best of several maps, or saved selections and edits.

    One row for every combination of sets that has neurons: sets, degree (how many sets), neurons (in these and in none
    of the others), expected (if each set were drawn evenly from all neurons, independently of the others) and lift.
    Facts: sizes, how many neurons each set has; total, of how many. Two maps of a concept are compared with stronger
    nulls by `shared`.

    Raises:
        UsageError: not from 2 to 8 sets, of one model; or a map or a set that the atlas does not have.
    """

    examples = (
        "atlas overlap --concept dog --methods contribution,activation,ablation --top 40",
        "atlas overlap --concepts dog,cat,horse --method contribution",
        "atlas overlap --of 'dog,cat,dog & no-dog'",
    )

    concepts: tuple[str, ...] = option("Several concepts.", default=())
    methods: tuple[str, ...] = option("Several methods.", default=())
    sources: tuple[str, ...] = option("Several sources.", default=())
    targets: tuple[str, ...] = option("Several targets.", default=())
    of: tuple[str, ...] = option("Saved selections and edits, or what they make: 'dog,cat,dog & no-dog'.", default=())
    top: int | str = option("How many of the best neurons of each map: 40, or 1%.", "--top", "-n", default=40, least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_singular_or_plural(self, SIDES)
        rule_of(self.top)
        several = [name for name in SIDES if getattr(self, f"{name}s")]
        if len(several) + bool(self.of) != 1:
            raise UsageError(
                "give several of one kind: [[methods=contribution,activation]], [[sources]], [[targets]], [[concepts]] "
                "or [[of]]"
            )
        names = self.of or getattr(self, f"{several[0]}s")
        if not 2 <= len(names) <= MOST or len(set(names)) < len(names):
            raise UsageError(f"give from 2 to {MOST} different sets, not {len(names)}: {', '.join(names)}")
        if several and several != ["concept"] and self.concept is None:
            raise UsageError(f"give the [[concept]] whose [[{several[0]}s]] are compared")

    def answer(self, path: Path) -> Answer:
        with open_readonly(path) as connection:
            sets, total, provenance = self._saved(connection, path) if self.of else self._of_maps(connection)
        rows = intersections(sets, total)
        in_all = next((row["neurons"] for row in rows.to_pylist() if row["degree"] == len(sets)), 0)
        facts = {"sizes": {name: len(neurons) for name, neurons in sets.items()}, "total": total}
        return Answer(rows, provenance, facts=facts, notes=[f"{in_all} of {total:,} neurons in all {len(sets)} sets"])

    def _of_maps(self, connection: Connection) -> tuple[dict[str, set[tuple[int, int]]], int, Provenance]:
        side = next(name for name in SIDES if getattr(self, f"{name}s"))
        names = getattr(self, f"{side}s")
        chosen: list[StoredMap]
        if side == "concept":
            by_name = {c["concept"]: c for c in choose_concepts(connection, self.maps(), names)}
            chosen = [by_name[name] for name in names]
        else:
            chosen = choose_several(connection, self.maps(), side, names)
        total = int(chosen[0]["neurons"])
        top = top_of(chosen, self.top)
        best = ChosenSets(connection, Rule("top", top), chosen).neurons
        sets = {name: best[c["map_id"]] for name, c in zip(names, chosen, strict=True)}
        return sets, total, provenance_of(chosen, {"top": top})

    def _saved(self, connection: Connection, path: Path) -> tuple[dict[str, set[tuple[int, int]]], int, Provenance]:
        from atlas.edits.set_expression import of_expression
        from atlas.neurons import LANGUAGE

        found = {expression: of_expression(path, expression) for expression in self.of}
        models = {str(neurons.provenance.get("fingerprint")) for neurons in found.values()}
        if len(models) > 1:
            raise UsageError("these sets have neurons of two models; compare those of one")
        shapes = statements.model_layers(*models).run(connection).to_pylist()
        if not shapes:
            raise UsageError("the atlas does not have the model of these neurons; `atlas models` lists those it has")
        if any(n.component != LANGUAGE for neurons in found.values() for n in neurons):
            raise UsageError("sets of the language model's neurons are compared; one of these has neurons elsewhere")
        sets = {name: {(n.layer, n.index) for n in neurons} for name, neurons in found.items()}
        maps = [origin for neurons in found.values() for origin in neurons.provenance.get("maps", [])]
        provenance: Provenance = {"fingerprint": next(iter(models)), "maps": maps, "assumed": []}
        return sets, shapes[0]["layers"] * shapes[0]["width"], provenance
