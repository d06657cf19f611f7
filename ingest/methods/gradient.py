"""The derivative of the concept's log-probability by the neuron's value: what one more unit of it would do.

GraD in NAM's list of baselines (Fang et al. 2024):

    S[l, n] = sum over t of dy / dA[l, t, n]
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from atlas.live.media import KINDS
from ingest.attribution.estimators import GRADIENT, IMAGE_TARGET, TEXT_TARGET, PairMethod
from ingest.attribution.position_sums import sums
from ingest.attribution.trace import OUTPUTS, POSITIONS, Trace, one_of, sources_with


class Gradient(PairMethod):
    targets = frozenset({TEXT_TARGET, IMAGE_TARGET})
    needs = frozenset({GRADIENT})

    def __init__(self, positions: str, output: str, times_activation: bool = False):
        super().__init__()
        self.positions = one_of("positions", positions, POSITIONS)
        self.sources = sources_with(positions)
        self.output = one_of("output", output, OUTPUTS)
        self.times_activation = times_activation

    def scores(self, trace: Trace) -> Mapping[str, Tensor]:
        key = ("gradient", self.output, self.times_activation)
        if key not in trace.shared:
            trace.shared[key] = summed(trace, self.output, times_activation=self.times_activation)
        return {"": trace.shared[key][POSITIONS.index(self.positions)]}


def summed(trace: Trace, output: str, *, times_activation: bool) -> Tensor:
    """(POSITIONS, L, P, N): the derivatives, or their products with the values, summed over each set of positions.

    All sets together cost what one does, as it is reading the derivatives that takes the time.
    """
    there = [place for place, name in enumerate(POSITIONS) if name not in KINDS or name == trace.source]
    where = torch.stack([trace.where(POSITIONS[place]) for place in there], 1).float()  # (P, there, T)
    shape = len(POSITIONS), len(trace.layers), len(trace.concepts), trace.live.layout.width
    out = torch.zeros(shape, device=where.device)
    for pairs, gradients in trace.gradients_of(output):
        rows = trace.pairs[pairs]
        masks = where.new_zeros(len(trace.items), *where.shape[1:])
        masks[rows] = where[pairs]
        for place, layer in enumerate(trace.layers):
            values = trace.capture.values[layer].detach() if times_activation else None
            for at, found in zip(there, sums(masks, gradients[layer], values)[rows].unbind(1), strict=True):
                out[at, place, pairs] = found
    return out


def build(*, positions: str = "all", output: str = "log_probability") -> Gradient:
    """positions: all | predicting | image | video | audio. output: log_probability | logit | probability of the word's
    tokens."""
    return Gradient(positions, output)
