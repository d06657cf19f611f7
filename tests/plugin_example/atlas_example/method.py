"""The size of a neuron's direct effect on the concept's logit, whether it speaks for the word or against it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ingest.attribution.estimators import PairMethod
from ingest.attribution.trace import Trace


class AbsoluteContribution(PairMethod):
    def scores(self, trace: Trace) -> Mapping[str, Tensor]:
        """(layers, pairs, neurons), summed over each pair's tokens; the method has one part, without a name."""
        return {"": trace.to_pairs(trace.contributions().abs()).transpose(0, 1)}


def build() -> AbsoluteContribution:
    """No parameters."""
    return AbsoluteContribution()
