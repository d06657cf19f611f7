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
from ingest.attribution.positions import POSITIONS, need_of, sources_with
from ingest.attribution.trace import OUTPUTS, Trace, one_of


class Gradient(PairMethod):
    """See the module. times_activation: multiply the derivatives by the values."""

    targets = frozenset({TEXT_TARGET, IMAGE_TARGET})

    def __init__(self, positions: str, output: str, times_activation: bool = False):
        super().__init__()
        self.positions = one_of("positions", positions, POSITIONS)
        self.sources = sources_with(positions)
        self.needs = frozenset({GRADIENT}) | need_of(positions)
        self.output = one_of("output", output, OUTPUTS)
        self.times_activation = times_activation

    def scores(self, trace: Trace) -> Mapping[str, Tensor]:
        key = ("gradient", self.output, self.times_activation)
        if key not in trace.shared:
            trace.shared[key] = summed(trace, self.output, times_activation=self.times_activation)
        return {"": trace.shared[key][POSITIONS.index(self.positions)]}


def summed(trace: Trace, output: str, *, times_activation: bool) -> Tensor:
    """(POSITIONS, L, P, N): the derivatives, or their products with the values, summed over each set of positions.

    All sets together cost the same as one, as reading the derivatives takes most of the time.
    """
    present = [index for index, name in enumerate(POSITIONS) if name not in KINDS or name == trace.source]
    where = torch.stack([trace.where(POSITIONS[index]) for index in present], 1).float()  # (P, there, T)
    shape = len(POSITIONS), len(trace.layers), len(trace.concepts), trace.live.layout.width
    by_positions = torch.zeros(shape, device=where.device)
    for pairs, gradients in trace.gradients_of(output):
        rows = trace.pairs[pairs]
        masks = where.new_zeros(len(trace.items), *where.shape[1:])
        masks[rows] = where[pairs]
        for index, layer in enumerate(trace.layers):
            values = trace.capture.values[layer].detach() if times_activation else None
            for position_set, totals in zip(
                present, sums(masks, gradients[layer], values)[rows].unbind(1), strict=True
            ):
                by_positions[position_set, index, pairs] = totals
    return by_positions


def build(*, positions: str = "all", output: str = "log_probability") -> Gradient:
    """positions: all | predicting | image | video | audio | input. output: log_probability | logit | probability of the
    word's tokens."""
    return Gradient(positions, output)
