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
from atlas.live.encode import IMAGE_ROLE
from ingest.maps import GRADIENT, PairMethod
from ingest.trace import Trace

POSITIONS = ("all", "predicting", "image")


class GradientXActivation(PairMethod):
    needs = frozenset({GRADIENT})

    def __init__(self, positions: str):
        super().__init__()
        if positions not in POSITIONS:
            raise UsageError(f"no positions called '{positions}'; there are: {', '.join(POSITIONS)}")
        self.positions = positions

    def _where(self, trace: Trace, pairs: Tensor) -> Tensor:
        """(pairs, T) bool: the positions that count for each pair."""
        rows = trace.pairs[pairs]
        if self.positions == "image":
            return trace.batch.roles[rows] == IMAGE_ROLE
        if self.positions == "all":
            return trace.real[rows]
        where = torch.zeros(len(trace.concepts), trace.batch.roles.shape[1], dtype=torch.bool, device=rows.device)
        where[trace.pair_of, trace.positions] = True
        return where[pairs]

    def score(self, trace: Trace, layer: int) -> Tensor:
        values = trace.values(layer)
        out = torch.zeros(len(trace.concepts), values.shape[-1], device=values.device)
        for pairs, gradients in trace.gradients:
            rows = trace.pairs[pairs]
            product = values[rows] * gradients[layer][rows]
            out[pairs] = (product * self._where(trace, pairs)[..., None]).sum(1)
        return out


def build(*, positions: str = "all") -> GradientXActivation:
    """positions: all | predicting | image."""
    return GradientXActivation(positions)
