"""What remains of the right answers as more of a method's best neurons are ablated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from atlas.errors import UsageError
from atlas.query.answer import Answer
from atlas.query.map_spec import by_place
from atlas.query.option import described, option
from atlas.query.question import Question
from atlas.questions._evaluations import OfEvaluations, choosing
from atlas.stats.dose_response import LESS_RANDOM, doses
from atlas.stats.leaderboard import ACCURACY, of_effects
from atlas.store.database import open_readonly


@described
class DoseResponse(OfEvaluations, Question[Answer]):
    """What is left as more of a method's best neurons are ablated, on their concept and on others, beside random ones.

    One row for every source, method and dose: how many neurons (share: of all), and by `metric` what is left on their
    concept (own) and on others, with as many random neurons of the same layers, and before. accuracy: of answers whose
    words are the model's first choice. log_probability: the change of these words' mean log-probability, in nats;
    before is the log-probability itself. Means over concepts: own and random_own over the `concepts` of which any
    example was asked, with 95 % intervals over these (none of fewer than three), the others over all that were ablated.
    own_less_random, others_less_random: the means of the differences from random neurons, concept by concept, with
    their 95 % intervals over concepts. With a concept, that of it alone. The model and dataset are by default the
    newest that have any.

    The rows come from `atlas evaluate --method A,B --doses 0.1%,0.5%,1%,2%,5%`.

    Raises:
        UsageError: a name that the atlas does not have, or nothing measured.
    """

    examples = ("atlas dose-response --source image",)

    concept: str | None = option(
        "Only this concept, instead of means over all.", "--concept", "-c", default=None, kw_only=False
    )
    method: str | None = by_place("method", default=None, kw_only=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_metric()

    def answer(self, path: Path) -> Answer:
        chosen: list[str] = []
        with open_readonly(path) as connection:
            ask = choosing(chosen, lambda spec: doses(connection, spec, self.metric, chosen))
            rows, defaults = of_effects(connection, self.maps(), ask)
        if not rows.num_rows:
            raise UsageError(
                "no doses are measured yet: `atlas evaluate --method contribution --doses 0.1%,0.5%,1%,2%,5%` measures "
                "some"
            )
        return Answer(rows, {"assumed": [*defaults, *chosen]}, brief=_brief(rows.to_pylist()))


def spelled(value: float, metric: str) -> str:
    """Percent of right answers, or a change in nats."""
    return f"{value:.1%}" if metric == ACCURACY else f"{value + 0.0:+.2f}"


def _with_interval(row: Mapping[str, Any], name: str) -> str | None:
    """A difference, in percentage points or nats, and its interval where there is one."""
    scale, digits = (100, 1) if row["metric"] == ACCURACY else (1, 2)
    value, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
    if value is None:
        return None
    said = [f"{scale * number + 0.0:+.{digits}f}" for number in (value, low, high) if number is not None]
    return said[0] if low is None else f"{said[0]} [{said[1]}, {said[2]}]"


def _brief(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    names = ("own", "others", "random_own", "random_others")
    return pa.Table.from_pylist(
        [
            {n: r[n] for n in ("source", "method", "reduce", "metric", "dose", "neurons")}
            | {n: None if r[n] is None else spelled(r[n], r["metric"]) for n in names}
            | {n: _with_interval(r, n) for n in LESS_RANDOM}
            | {"concepts": r["concepts"]}
            for r in rows
        ]
    )
