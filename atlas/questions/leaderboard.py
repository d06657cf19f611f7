"""The methods compared by their measurements."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from atlas.errors import UsageError
from atlas.query.answer import Answer
from atlas.query.map_spec import MapSpec
from atlas.query.option import described, option
from atlas.query.provenance import without_runs
from atlas.query.question import Question
from atlas.questions._evaluations import OfEvaluations, choosing
from atlas.stats.leaderboard import ACCURACY, ORDERS, REFERENCE, leaderboard, of_effects
from atlas.store.database import open_readonly


@described
class Leaderboard(OfEvaluations, Question[Answer]):
    """Methods against exact ablation: rank correlation, precision of the top 1 % and 2 %, and what ablating their
    neurons did: on their concept / on the others / on their concept with as many random neurons.

    Best first by source. correlation, precision_1, precision_2: of a method's maps with the reference's, in the runs
    that have both, by contrast where there is one (`reduce` says); ranked: how many concepts these are means over.
    effects: for each number of neurons that `atlas evaluate --method` ablated, found by that reduction, in its newest
    run: by `metric` what is left on the concept (own) and on others, the same with as many random neurons, and before.
    metric: accuracy, or log_probability: the change of the words' mean log-probability, in nats.
    selectivity: others minus own, the mean over the numbers of neurons that all measured methods of the source have.
    ablated: how many concepts these effects are means over, the fewest where numbers differ. _low, _high: the 95 %
    intervals over concepts.

    The rows come from `atlas ingest` (with ablation in the job) and `atlas evaluate --method A,B --top 1%,2%`.

    Raises:
        UsageError: a name that the atlas does not have, or nothing measured.
    """

    examples = ("atlas leaderboard --source text",)

    reference: str | None = option(
        "The method whose ranking the others are compared with. [default: ablation]", default=None, kw_only=False
    )
    by: str = option("Order by selectivity, suppression, retention or correlation.", default="selectivity")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.by not in ORDERS:
            raise UsageError(f"[[by]] is one of {', '.join(ORDERS)}, not '{self.by}'")
        self.require_metric()

    def answer(self, path: Path) -> Answer:
        against = self.reference or REFERENCE
        spec = self.maps(method=self.reference, target="text")
        chosen: list[str] = []
        with open_readonly(path) as connection:

            def ask(answered: MapSpec) -> pa.Table:
                return leaderboard(connection, replace(answered, method=None), against, self.by, self.metric, chosen)

            rows, defaults = of_effects(connection, spec, choosing(chosen, ask))
        if not rows.num_rows:
            raise UsageError(
                f"nothing to compare yet: `atlas ingest --methods {against},contribution` ranks neurons, "
                "`atlas evaluate --method contribution --top 1%,2%` measures what they do"
            )
        rows, runs = without_runs(rows)
        note = (
            f"correlation and precision against {against}; the others: own / others / own with random: accuracy left, "
            "%, or the change of the log-probability, nats"
        )
        return Answer(
            rows,
            {"assumed": [*defaults, *chosen], "runs": runs},
            facts={"reference": against},
            notes=[note],
            brief=_brief(rows.to_pylist()),
        )


def _brief(rows: list[dict[str, Any]]) -> pa.Table:
    tops = list(dict.fromkeys(e["top"] for row in rows for e in row["effects"] or []))
    out = []
    for row in rows:
        shown = {name: row[name] for name in ("source", "method", "reduce", "metric", "ranked", "ablated")}
        for name in ("correlation", "precision_1", "precision_2", "selectivity"):
            shown[name] = None if row[name] is None else f"{round(row[name], 2) + 0.0:.2f}"
        by_amount = {e["top"]: e for e in row["effects"] or []}
        shown |= {top: _left(by_amount[top], row["metric"]) if top in by_amount else None for top in tops}
        out.append(shown)
    return pa.Table.from_pylist(out)


def _left(effect: dict[str, Any], metric: str) -> str:
    values = (effect["own"], effect["others"], effect["random_own"])
    scale, digits = (100, 0) if metric == ACCURACY else (1, 1)
    return " / ".join("-" if value is None else f"{scale * value + 0.0:.{digits}f}" for value in values)
