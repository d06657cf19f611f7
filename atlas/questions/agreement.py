"""How well the methods' rankings of neurons agree: with a reference, or with each other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from atlas.errors import UsageError
from atlas.query import compare_maps
from atlas.query.answer import Answer
from atlas.query.map_spec import Coordinates, MapSpec
from atlas.query.option import described, option
from atlas.query.provenance import Provenance, without_runs
from atlas.query.question import Question
from atlas.query.resolve_maps import first_answer
from atlas.stats.leaderboard import REFERENCE
from atlas.stats.method_pairs import pairwise, with_intervals
from atlas.store.database import open_readonly

if TYPE_CHECKING:
    import pyarrow as pa


@described
class Agreement(Coordinates, Question[Answer]):
    """How well each method's ranking of neurons follows exact ablation's: rank correlation, overlap of the tops.

    With pairs, how far every two methods agree over the same examples and concepts: one row a pair, source, target and
    reduction, best first. correlation: Spearman's, equal scores sharing their mean rank. overlap: the share of one's
    top 2 % that the other's top 2 % has. Both are over the neurons that both maps score, and means over concepts.
    _low, _high: 95 % interval: over the concepts, none of two; of one pair and concept, over bootstrap draws of its
    neurons.

    The model and dataset are by default the newest that have maps to compare.

    Raises:
        UsageError: a name that the atlas does not have, or nothing to compare.
    """

    examples = ("atlas agreement --source image", "atlas agreement --pairs --concept dog --source text")

    reference: str | None = option(
        "The method the others are compared with. [default: ablation]", default=None, kw_only=False
    )
    pairs: bool = option("Every two methods, with 95 % intervals.", default=False)
    seed: int = option("Of the intervals' resampling.", default=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pairs and self.reference is not None:
            raise UsageError("[[pairs]] compares all methods with each other; leave out [[reference]]")
        if self.method is not None:
            raise UsageError("all methods are compared; leave out [[method]]")

    def answer(self, path: Path) -> Answer:
        with open_readonly(path) as connection:
            if self.pairs:
                rows, defaults = first_answer(
                    connection, self.maps(), lambda spec: pairwise(connection, spec, self.seed)
                )
                if not rows.num_rows:
                    raise UsageError(
                        "no run has maps of two methods; `atlas ingest --methods ablation,contribution` makes some"
                    )
                rows, runs = without_runs(rows)
                return Answer(rows, {"assumed": list(defaults), "runs": runs}, facts={"seed": self.seed})
            against = self.reference or REFERENCE

            def ask(spec: MapSpec) -> pa.Table:
                return compare_maps.agreement(against, replace(spec, method=None)).run(connection)

            # The maps of a named reference determine the model and dataset.
            reference_spec = self.maps(method=self.reference, target=self.target or "text")
            rows, defaults = first_answer(connection, reference_spec, ask)
        if not rows.num_rows:
            raise UsageError(
                f"no map of another method can be compared with '{against}'; "
                f"`atlas ingest --methods {against},contribution` makes some (`atlas concepts` lists what is stored)"
            )
        rows, runs = without_runs(rows)
        notes = _partial(rows, against)
        brief = rows.drop_columns(["total", "correlations"])
        rows = with_intervals(rows.drop_columns(["total"]))
        provenance: Provenance = {"assumed": list(defaults), "runs": runs}
        return Answer(rows, provenance, facts={"reference": against}, notes=notes, brief=brief)


def _partial(rows: pa.Table, reference: str) -> list[str]:
    """A note where the reference scores some of the model's neurons only."""
    partial = [row for row in rows.to_pylist() if row["neurons"] < row["total"]]
    if not partial:
        return []
    fewest = min(partial, key=lambda row: row["neurons"])
    return [
        f"compared over the {fewest['neurons']:,} of {fewest['total']:,} neurons that {reference} and the method both "
        "score; if these were chosen by one of the methods, they favour it"
    ]
