"""The contract test of metrics notices each fault, and names it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from contract_parts import made_by

import ingest.metrics.exact
from atlas.testing import ContractError, check_metric
from ingest.evaluate.metric import Judged


class Length:
    """A metric by a function of an answer and the position that it is at."""

    def __init__(self, value: Callable[[Judged, int], float], kind: Any = np.float64):
        self.value, self.kind = value, kind

    def score(self, judged: Sequence[Judged]) -> dict[str, np.ndarray]:
        return {"broken": np.array([self.value(one, i) for i, one in enumerate(judged)], self.kind)}


def exact(one: Judged, _: int = 0) -> float:
    return float(one.answer.strip().lower() in [r.strip().lower() for r in one.references if r])


DRAWS = np.random.default_rng(0)
METRICS: dict[str, tuple[Callable[[], Length], str]] = {
    "outside": (lambda: Length(lambda one, _: 2 * exact(one)), "outside"),
    "constant": (lambda: Length(lambda one, _: 0.5), "for right and wrong answers alike"),
    "float32": (lambda: Length(exact, np.float32), "not a float64 array"),
    "chance": (lambda: Length(lambda one, _: DRAWS.random()), "differs the second time"),
    "empty": (lambda: Length(lambda one, _: exact(one) if one.answer.strip() else np.nan), "not finite"),
    "reversed": (lambda: Length(lambda one, _: 1 - exact(one)), "an empty answer has|better than the reference"),
    "position": (lambda: Length(lambda one, i: exact(one) and 1 / (1 + (i > 3))), "the reference itself|depends on"),
}


@pytest.mark.parametrize("fault", METRICS)
def test_a_metric_that_breaks_its_contract(fault: str) -> None:
    kind, message = METRICS[fault]
    with pytest.raises(ContractError, match=f"broken: .*({message})"):
        check_metric(made_by(kind), name="broken")


def test_a_metric_whose_answers_are_not_judged_alone() -> None:
    class OfTheSet(Length):
        def score(self, judged: Sequence[Judged]) -> dict[str, np.ndarray]:
            found = super().score(judged)["broken"]
            return {"broken": found * (1 - 0.1 * (found.sum() == 1))}

    with pytest.raises(ContractError, match="depends on the other answers"):
        check_metric(made_by(lambda: OfTheSet(exact)), name="broken", best=None)
    check_metric(made_by(lambda: OfTheSet(exact)), name="broken", best=None, alone=False)
    with pytest.raises(ContractError, match="'exact' is not named after it"):
        check_metric(ingest.metrics.exact, name="other")
