"""What ablating each concept's neurons does to the questions about every other concept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from atlas.errors import UsageError
from atlas.query.answer import Answer
from atlas.query.map_spec import by_place
from atlas.query.option import described, option
from atlas.query.question import Question
from atlas.query.resolve_maps import first_answer
from atlas.questions._evaluations import OfEvaluations, choosing
from atlas.questions.dose_response import spelled
from atlas.stats.cross_ablation import LEAST, cross_ablation, diagonal_dominance, matrix_of
from atlas.store.database import open_readonly

FACTS = ("own", "others", "dominance", "relative", "p", "permutations", "random_dominance")
"""The numbers about a matrix, None where they are not known."""


@described
class CrossAblation(OfEvaluations, Question[Answer]):
    """What ablating one concept's best neurons does to each concept's questions: one row for every ablated and asked.

    effect: by `metric`, with the ablation less before (accuracy: of the share of right answers; log_probability: of
    their words' mean log-probability, in nats), so that it is below 0 where something is lost. random: the same with as
    many random neurons, the mean of `seeds` draws. n: how many questions about the asked concept; where it is another
    one, of examples without the ablated concept. All rows are of one evaluation: of the method's with the most concepts
    the newest, and of its doses the largest.

    Facts, of the `concepts` that were ablated and asked about: own and others, the means of the effects on the ablated
    concept and on the others; dominance = own - others, below 0 where the ablated concept loses more; relative =
    dominance / own, 1 where it alone loses and 0 where all lose alike (none where it loses nothing); p, the share of
    the permutations of the concepts' labels, asked against ablated, whose dominance is as low or lower (every
    permutation of up to 8 concepts, 9,999 random ones of more, and none of fewer than 4); random_dominance, that of the
    random neurons.

    The rows come from `atlas evaluate --method M --doses 2%`.

    Raises:
        UsageError: a name that the atlas does not have, or nothing measured.
    """

    examples = ("atlas cross-ablation --method contribution --source image",)

    method: str | None = by_place("method", default=None, kw_only=False)
    dose: str | None = option("How many neurons were ablated: 40, or 2%. [default: the most]", default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_metric()

    def answer(self, path: Path) -> Answer:
        chosen: list[str] = []
        with open_readonly(path) as connection:
            ask = choosing(chosen, lambda spec: cross_ablation(connection, spec, self.dose, self.metric, chosen))
            table, defaults = first_answer(connection, self.maps(), ask)
        if not table.num_rows:
            raise UsageError(
                "no evaluation like this has the effects on each other concept: `atlas evaluate --method "
                "contribution --doses 2%` measures them; remove a run from before they were kept (`atlas runs rm RUN`) "
                "and evaluate again"
            )
        rows = table.to_pylist()
        own = [row["ablated"] for row in rows if row["ablated"] == row["asked"]]
        facts, notes = _facts(rows, sorted(own))
        brief = pa.Table.from_pylist([_spelled(row) for row in rows])
        return Answer(table, {"assumed": [*defaults, *chosen]}, facts=facts, notes=notes, brief=brief)


def _facts(rows: list[dict[str, Any]], concepts: list[str]) -> tuple[dict[str, Any], list[str]]:
    """The numbers about the matrix, and what they say."""
    facts: dict[str, Any] = {"concepts": concepts, **dict.fromkeys(FACTS)}
    if len(concepts) < 2:
        return facts, [
            f"cannot tell from {len(concepts)} concept{'' if len(concepts) == 1 else 's'} how specific it is"
        ]
    effects, control = matrix_of(rows, concepts), matrix_of(rows, concepts, "random")
    found = diagonal_dominance(effects)
    facts |= {"own": found.own, "others": found.others, "dominance": found.dominance, "relative": found.relative}
    facts |= {"p": found.p_value, "permutations": found.permutations}
    if (control == control)[effects == effects].all():  # NaN: not measured
        facts["random_dominance"] = diagonal_dominance(control).dominance
    if found.dominance is None or found.others is None:
        return facts, ["no question is about another concept"]
    metric = rows[0]["metric"]
    note = f"own concept {spelled(found.own, metric)}, others {spelled(found.others, metric)}: "
    note += f"diagonal dominance {spelled(found.dominance, metric)}"
    if facts["random_dominance"] is not None:
        note += f", of random neurons {spelled(facts['random_dominance'], metric)}"
    if found.p_value is None:
        doubt = f"cannot tell from {len(concepts)} concepts whether that is more than chance; {LEAST} or more could"
        return facts, [note, doubt]
    return facts, [f"{note}; p = {found.p_value:.2g} over {found.permutations:,} permutations of the concepts"]


def _spelled(row: dict[str, Any]) -> dict[str, Any]:
    names = ("effect", "random", "before")
    shown = {name: None if row[name] is None else spelled(row[name], row["metric"]) for name in names}
    return {name: row[name] for name in ("ablated", "asked")} | shown | {"n": row["n"]}
