"""The smallest change of write vectors that moves the final representation from one concept's to another's.

NAM's editing (Fang et al. 2024, section on image editing) in closed form: with values a_k of the chosen neurons where
the word is predicted and dh the difference of the mean final residuals, sum_k a_k dv_k = dh has the minimal-norm
solution dv_k = a_k dh / sum a^2, of norm |dh| / sqrt(sum a^2). In this one-layer linear view the norm depends on the
set's activation energy alone, so the report compares it with the norm for as many of the most active neurons (the
smallest possible) and for random ones, and says how far the running model really moves, as later layers respond too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from atlas.edits.edit import Change, Intervention
from atlas.errors import UsageError
from atlas.live.edit.apply import changing
from atlas.neurons import PRODUCT, Neuron
from atlas.stats.random_neurons import matched_random
from ingest.attribution.item import Item, shortest_first
from ingest.attribution.trace import traced
from ingest.run.encode_examples import batches
from ingest.solve.problem import Problem, Solution
from ingest.solvers._choosing import contributing, excluded, firsts

DRAWS = 20


class MinimalNorm:
    """See the module."""

    def __init__(self, per_token: int, exclude_last: int):
        self.per_token, self.exclude_last = per_token, exclude_last

    @torch.no_grad()
    def solve(self, problem: Problem) -> Solution:
        """See `ingest.solve.problem.Solver`."""
        if not problem.goals:
            raise UsageError("minimal_norm needs examples of the concept to move to: give [[to_concept]]")
        neurons = sorted(set(problem.neurons or contributing(problem, self.per_token, self.exclude_last)))
        items = [case.item(original=True) for case in problem.cases]
        before, values = observed(problem, items)
        goal, _ = observed(problem, problem.goals)
        change = goal - before
        own_values = torch.tensor([float(values[n.layer, n.index]) for n in neurons])
        deltas = minimal(own_values, change)
        changes = tuple(Change(n, write=i) for i, n in enumerate(neurons))
        intervention = Intervention(changes, deltas=deltas.numpy())
        with changing(problem.live, intervention):
            moved = observed(problem, items)[0] - before
        report = {
            "neurons": len(neurons),
            "delta_norm": float(deltas.norm()),
            "distance": float(change.norm()),
            "moved": float(moved @ change / change.norm() ** 2),
            "distance_left": float((change - moved).norm()),
            **self._nulls(problem, neurons, values, change),
        }
        return Solution(intervention, report)

    def _nulls(self, problem: Problem, neurons: list[Neuron], values: Tensor, change: Tensor) -> dict[str, float]:
        """The norm for as many neurons of the greatest activation energy, and for random ones of the same layers."""
        searched = len(values) - (0 if problem.neurons else excluded(len(values), self.exclude_last))
        loudest = values[:searched].flatten().abs().topk(min(len(neurons), values[:searched].numel())).values
        width = problem.live.layout.width
        drawn = [matched_random(neurons, width, problem.seed + i) for i in range(DRAWS)]
        energy = [sum(float(values[n.layer, n.index]) ** 2 for n in draw) for draw in drawn]
        norms = [float(change.norm()) / max(e, 1e-30) ** 0.5 for e in energy]
        return {
            "energy_null_norm": float(change.norm() / loudest.norm()),
            "random_norm_median": float(np.median(norms)),
            "random_norm_least": min(norms),
        }


def minimal(values: Tensor, change: Tensor) -> Tensor:
    """(neurons, d_model): dv_k = a_k dh / sum a^2, from (neurons,) values and (d_model,) the change.

    Raises:
        UsageError: every value is 0.
    """
    energy = (values**2).sum()
    if energy == 0:
        raise UsageError("the neurons are all 0 where the word is predicted; choose others")
    return torch.outer(values, change) / energy


@torch.no_grad()
def observed(problem: Problem, items: Sequence[Item]) -> tuple[Tensor, Tensor]:
    """(d_model,) the mean final residual where the words' first tokens are predicted, and (layers, neurons) the mean
    values there."""
    layout = problem.live.layout
    final, values = torch.zeros(layout.d_model), torch.zeros(len(layout.layers), layout.width)
    for chunk in batches(shortest_first(list(items)), problem.batch_size):
        with traced(problem.live, chunk, "", layers=None, tap=PRODUCT, grad=False) as trace:
            chosen = firsts(trace)
            final += trace.final_at_targets()[0][chosen].float().sum(0).cpu()
            for layer in trace.layers:
                values[layer] += trace.at_targets(layer)[chosen].sum(0).cpu()
    return final / len(items), values / len(items)


def build(*, per_token: int = 20, exclude_last: int = -1) -> MinimalNorm:
    """per_token: neurons for each token of the word, where none are given. exclude_last: see `word_swap`."""
    return MinimalNorm(per_token, exclude_last)
