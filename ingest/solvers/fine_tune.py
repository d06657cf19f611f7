"""A baseline: plain fine-tuning of the same columns without selection.

Every write vector of the layers of the given (or top contributing) neurons may change, by the words' likelihood alone:
no term preserves anything.
"""

from __future__ import annotations

from atlas.neurons import LANGUAGE, Neuron
from ingest.solve.problem import Descent, Problem, Solution, Weights
from ingest.solvers._choosing import contributing
from ingest.solvers._deltas import learned


class FineTune:
    """See the module."""

    def __init__(self, per_token: int, exclude_last: int, descent: Descent):
        self.per_token, self.exclude_last, self.descent = per_token, exclude_last, descent

    def solve(self, problem: Problem) -> Solution:
        """See `ingest.solve.problem.Solver`."""
        neurons = problem.neurons or contributing(problem, self.per_token, self.exclude_last)
        layers = sorted({n.layer for n in neurons})
        all_neurons = [Neuron(LANGUAGE, y, i) for y in layers for i in range(problem.live.layout.width)]
        return learned(problem, all_neurons, Weights(0.0, 0.0, 0.0, 0.0), self.descent)


def build(
    *, per_token: int = 5, exclude_last: int = -1, lr: float = 5e-3, epochs: int = 50, confidence: float = 0.9
) -> FineTune:
    """See `word_swap`."""
    return FineTune(per_token, exclude_last, Descent(lr, epochs, confidence))
