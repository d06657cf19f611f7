"""Value times the derivative of the concept's log-probability by it: a first-order estimate of ablation.

GraT in NAM's list of baselines (Fang et al. 2024), Schwettmann et al. 2023 with positions=image, stage 2 of
Sato & Takagi 2025:

    S[l, n] = sum over t of A[l, t, n] * dy / dA[l, t, n]

with y the log-probability of the concept's words (weighted mean over their tokens). The sum runs over all
positions, over the image's, or over those where the words are predicted.
"""

from __future__ import annotations

import torch
from torch import Tensor

from atlas.errors import UsageError
from ingest.maps import GRADIENT, PairMethod
from ingest.trace import POSITIONS, Trace


class GradientXActivation(PairMethod):
    needs = frozenset({GRADIENT})

    def __init__(self, positions: str):
        super().__init__()
        if positions not in POSITIONS:
            raise UsageError(f"no positions called '{positions}'; there are: {', '.join(POSITIONS)}")
        self.positions = positions

    def score(self, trace: Trace, layer: int) -> Tensor:
        values, where = trace.values(layer), trace.where(self.positions)
        out = torch.zeros(len(trace.concepts), values.shape[-1], device=values.device)
        for pairs, gradients in trace.gradients:
            rows = trace.pairs[pairs]
            product = values[rows] * gradients[layer][rows]
            out[pairs] = (product * where[pairs][..., None]).sum(1)
        return out


def build(*, positions: str = "all") -> GradientXActivation:
    """positions: all | predicting | image."""
    return GradientXActivation(positions)
