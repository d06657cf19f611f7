"""The contract test of solvers notices each fault, and names it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from contract_parts import made_by

from atlas.edits.edit import Change, Intervention
from atlas.neurons import Neuron
from atlas.testing import ContractError, check_solver, contract
from ingest.solve.problem import Problem, Solution


class Writing:
    """A solver that adds the same number to the write vectors of a layer's first neurons."""

    def __init__(self, delta: float = 0.5, layer: int = 1, report: Any = 0, leaves: bool = False):
        self.delta, self.layer, self.report, self.leaves = delta, layer, report, leaves

    def solve(self, problem: Problem) -> Solution:
        live = problem.live
        live.forward(live.batch([case.wanted for case in problem.cases]))
        deltas = np.zeros((16, live.layout.d_model), np.float32)
        deltas[:, ::2] = self.delta
        if self.leaves:
            live.model.train()
        changes = tuple(Change(Neuron("language", self.layer, i), write=i) for i in range(16))
        return Solution(Intervention(changes, deltas=deltas), {"report": self.report})


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({"delta": 0.0}, "all zero"),
        ({"delta": np.nan}, "NaN or infinite"),
        ({"layer": 7}, "which the model does not have"),
        ({"report": np.nan}, "report cannot be stored"),
        ({"report": object()}, "report cannot be stored"),
        ({"leaves": True}, "left in another mode"),
    ],
)
def test_a_solver_that_breaks_its_contract(given: dict[str, Any], fault: str) -> None:
    with pytest.raises(ContractError, match=f"broken: .*{fault}"):
        check_solver(made_by(lambda: Writing(**given)), name="broken", raises_words=False)
    contract.tiny.cache_clear()


def test_a_solver_that_makes_the_words_no_likelier() -> None:
    check_solver(made_by(Writing), name="writing", raises_words=False)
    chance = iter(np.linspace(0.1, 0.2, 9))
    with pytest.raises(ContractError, match="another solution the second time"):
        check_solver(made_by(lambda: Writing(next(chance))), name="broken", raises_words=False)
    likelier = []
    for delta in (0.5, -0.5):  # of two opposite deltas one makes the words less likely
        try:
            check_solver(made_by(lambda delta=delta: Writing(delta)), name="broken")
            likelier.append(delta)
        except ContractError as error:
            assert "the wanted words' probability is" in str(error)
    assert len(likelier) < 2
