"""Two maps of a concept that differ in one side: shared by `shared` and `only`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from atlas.errors import UsageError
from atlas.query.answer import Answer
from atlas.query.compare_maps import one_column_each
from atlas.query.map_spec import OfConcept
from atlas.query.neuron_set import NeuronSet
from atlas.query.option import described, option
from atlas.query.question import Question
from atlas.questions._overlaps import facts_of, lines_of, named, require_singular_or_plural, smaller_top
from atlas.stats.overlap import ModalityOverlap, of_concept, of_concepts, sides
from atlas.stats.overlap_null import suffixed
from atlas.store.database import open_readonly


@described
class Sides(OfConcept, Question[Answer]):
    """A concept, or several, and the two maps of each that are compared."""

    only: ClassVar[bool]

    concepts: str | Sequence[str] = option("all, or several: dog,cat. One row a concept, with q-values.", default=())
    side: str = option("Compare two sources, or two targets: source or target.", default="source")
    sources: tuple[str, ...] = option("Two modalities; with [[side=target]], one. [default: image,text]", default=())
    targets: tuple[str, ...] = option(
        "With [[side=target]], two modalities; else one. [default: image,text]", default=()
    )
    top: int | str = option("How many of the best neurons of each side: 40, or 1%.", default=40, least=1)
    limit: int = option("How many rows to return.", "--limit", "-n", default=1000, least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.concept is None) == (not self.concepts and self.supercategory is None):
            raise UsageError(
                "give one [[concept]]; or [[concepts=all]], [[concepts=dog,cat]] or [[supercategory=animal]] for a row "
                "each"
            )
        require_singular_or_plural(self, ("source", "target"))

    def answer(self, path: Path) -> Answer:
        modalities = {"source": self.sources or self.source, "target": self.targets or self.target}
        chosen = {
            name: (value,) if isinstance(value, str) else tuple(value or ()) for name, value in modalities.items()
        }
        side, between, other_side = sides(self.side, chosen["source"], chosen["target"])
        spec = self.maps(**({"source": None, "target": None} | other_side))
        with open_readonly(path) as connection:
            if self.concept is not None:
                return self._neurons(of_concept(connection, spec, side, between, self.top, only=self.only))
            overlaps = of_concepts(connection, spec, side, between, self.top, self.only, named(self.concepts))
        what = f"; matched: neurons of the same {overlaps.matched}" if overlaps.matched else ""
        notes = [
            f"{overlaps.rows.num_rows} concepts; q is the false discovery rate over them{what}; "
            "mismatched: neurons of the other concepts"
        ]
        if overlaps.left_out:
            notes.append(f"left out, with maps of only {' or '.join(between)}: {', '.join(overlaps.left_out)}")
        rows = overlaps.rows.rename_columns([suffixed(name) for name in overlaps.rows.column_names])
        facts = {"matched": overlaps.matched, "left_out": list(overlaps.left_out)}
        return Answer(rows.slice(0, self.limit), overlaps.provenance, facts=facts, notes=notes)

    def _neurons(self, overlap: ModalityOverlap) -> NeuronSet:
        first, second = overlap.between
        counts = overlap.statistics
        what = (
            f"in the top of {first} and not of {second}" if self.only else f"in the tops of both {first} and {second}"
        )
        notes = [f"{counts['only' if self.only else 'shared']} of {counts['top']} {what}"]
        notes += smaller_top(first, counts["chosen"], counts["top"])
        notes += lines_of(overlap)
        facts = facts_of(overlap) | {"between": list(overlap.between)}
        rows = one_column_each(overlap.neurons.table, {"ranks": "rank", "scores": "score"}, overlap.between)
        return NeuronSet(rows.slice(0, self.limit), overlap.neurons.provenance, facts=facts, notes=notes)
