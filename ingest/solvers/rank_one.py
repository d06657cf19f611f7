"""A baseline: a rank-one update of one layer's down projection.

The layer's neuron values where the word is predicted are a key k (their mean over the cases); the update is u c^T with
c = C^-1 k / (k^T C^-1 k), C the second moment of the values over the prompts' positions, so that it writes u for the
key and little for other values. The form is that of ROME (Meng et al. 2022, equation 2); u is learned here on the same
loss as `word_swap`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from atlas.edits.edit import Change, Intervention
from atlas.errors import UsageError
from atlas.neurons import LANGUAGE, PRODUCT, Neuron
from ingest.attribution.item import shortest_first
from ingest.attribution.trace import traced
from ingest.run.encode_examples import batches
from ingest.solve.problem import Descent, Problem, Solution, Weights, learn
from ingest.solvers._choosing import contributing, firsts


class RankOne:
    """See the module."""

    def __init__(self, layer: int, ridge: float, weights: Weights, descent: Descent):
        self.layer, self.ridge, self.weights, self.descent = layer, ridge, weights, descent

    def solve(self, problem: Problem) -> Solution:
        """See `ingest.solve.problem.Solver`."""
        layout = problem.live.layout
        layer = self._layer(problem)
        if not 0 <= layer < len(layout.layers):
            raise UsageError(f"no layer {layer}; this model has layers 0-{len(layout.layers) - 1}")
        pulls = covered(*moments(problem, layer), self.ridge).to(problem.live.device)
        index = torch.arange(layout.width, device=problem.live.device)
        update = torch.zeros(layout.d_model, device=problem.live.device, requires_grad=True)
        writes = lambda: {layer: (index, torch.outer(pulls, update))}  # noqa: E731
        report = learn(problem, [update], writes, layer, self.weights, self.descent)
        deltas = torch.outer(pulls, update.detach()).float().cpu().numpy()
        changes = tuple(Change(Neuron(LANGUAGE, layer, i), write=i) for i in range(layout.width))
        report |= {"layer": layer, "neurons": layout.width, "delta_norm": float((deltas**2).sum() ** 0.5)}
        return Solution(Intervention(changes, deltas=deltas), report)

    def _layer(self, problem: Problem) -> int:
        """The given layer, else the one with the most of the given or top contributing neurons."""
        if self.layer >= 0:
            return self.layer
        layers = [n.layer for n in problem.neurons or contributing(problem, 20, -1)]
        return max(sorted(set(layers)), key=layers.count)


@torch.no_grad()
def moments(problem: Problem, layer: int) -> tuple[Tensor, Tensor]:
    """(neurons,) the mean value where the word's first token is predicted, and (neurons, neurons) the second moment of
    the values over all positions of the prompts."""
    width = problem.live.layout.width
    key, second, positions = torch.zeros(width), torch.zeros(width, width), 0
    for chunk in batches(shortest_first([case.item() for case in problem.cases]), problem.batch_size):
        with traced(problem.live, chunk, "", layers=[layer], tap=PRODUCT, grad=False) as trace:
            values = trace.values(layer)[trace.real].cpu()
            key += trace.at_targets(layer)[firsts(trace)].sum(0).cpu()
        second += values.T @ values
        positions += len(values)
    return key / len(problem.cases), second / positions


def covered(key: Tensor, second: Tensor, ridge: float) -> Tensor:
    """c = C^-1 k / (k^T C^-1 k) for C the second moment plus a ridge, relative to its mean diagonal."""
    regular = second + ridge * second.diagonal().mean().clamp(min=1e-12) * torch.eye(len(second))
    solved = torch.linalg.solve(regular, key)
    scale = key @ solved
    if scale <= 0:
        raise UsageError("the layer's neurons are all 0 where the word is predicted; choose another layer")
    return solved / scale  # type: ignore[no-any-return]


def build(
    *,
    layer: int = -1,
    ridge: float = 0.01,
    lr: float = 0.05,
    epochs: int = 50,
    confidence: float = 0.9,
    kl: float = 1.0,
    repetition: float = 10.0,
    norm: float = 0.1,
    keep: float = 1.0,
) -> RankOne:
    """layer: -1 for the one with most of the contributing neurons. ridge: relative, on the second moment. The others:
    see `word_swap`."""
    return RankOne(layer, ridge, Weights(kl, repetition, norm, keep), Descent(lr, epochs, confidence))
