"""Deltas on the write vectors of the top contributing neurons, so that one word becomes another, or is never said.

The editing of Pan et al. 2024 ("Finding and Editing Multi-Modal Neurons"), implemented like its first author's FiNE
(2025): the neurons that contribute most to each token that is said now get an additive delta on their column of the
down projection, learned with Adam on the replacement's likelihood, with terms that preserve the prompt's predictions,
penalise the word's repetition and bound the deltas. Everything below the lowest edited layer is computed once.
"""

from __future__ import annotations

from ingest.solve.problem import Descent, Problem, Solution, Weights
from ingest.solvers._choosing import contributing
from ingest.solvers._deltas import learned


class WordSwap:
    """See the module."""

    def __init__(self, per_token: int, exclude_last: int, weights: Weights, descent: Descent):
        self.per_token, self.exclude_last, self.weights, self.descent = per_token, exclude_last, weights, descent

    def solve(self, problem: Problem) -> Solution:
        """See `ingest.solve.problem.Solver`."""
        neurons = problem.neurons or contributing(problem, self.per_token, self.exclude_last)
        return learned(problem, neurons, self.weights, self.descent)


def build(
    *,
    per_token: int = 5,
    exclude_last: int = -1,
    lr: float = 5e-3,
    epochs: int = 50,
    confidence: float = 0.9,
    kl: float = 1.0,
    repetition: float = 10.0,
    norm: float = 0.1,
    keep: float = 1.0,
) -> WordSwap:
    """per_token: neurons for each token of the word, where none are given. exclude_last: layers at the end whose
    neurons are left out then; -1: 3 of 32. lr, epochs, confidence: Adam's rate, the most passes over the examples, and
    the probability of the worst token at which to stop. kl, repetition, norm, keep: the terms' weights."""
    return WordSwap(per_token, exclude_last, Weights(kl, repetition, norm, keep), Descent(lr, epochs, confidence))
