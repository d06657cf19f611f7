"""What each neuron adds, at the picture's states, to the concept's region of the picture that the model draws.

Image neurons of NAM (Fang et al. 2024, "Towards Neuron Attributions in Multi-Modal Large Language Models"). With R[j]
the importance of the j-th of the picture's states for the region (see `ingest.draw.drawings`), and s summed over them:

    s[l, n] = sum over j of A[l, j, n] * (v[l, n] . R[j])
    S[l, n] = max( s / max |s| ,  weight * a / max |a| ),    a the sum of A[l, j, n]

the maxima running over all neurons. The states lie behind the final norm: `norm=true` (default) takes R back through it
at its real scale, which makes s the neuron's exact share of R . h; false is the paper's plain product. Weight 0 leaves
s alone, its sign with it. The weight and the segmenter's and the interpreter's details are not stated in what could be
read of the paper.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from atlas.errors import UsageError
from ingest.attribution.estimators import IMAGE_TARGET, PairMethod, normalised
from ingest.attribution.trace import Trace


class NamImage(PairMethod):
    """See the module. norm, weight: as in `build`."""

    targets = frozenset({IMAGE_TARGET})

    def __init__(self, norm: bool, weight: float):
        super().__init__()
        if weight < 0:
            raise UsageError("nam_image: weight must be at least 0")
        self.norm, self.weight = norm, weight

    def scores(self, trace: Trace) -> Mapping[str, Tensor]:
        trace.require_product("nam_image")
        added = normalised(trace.to_pairs(trace.contributions(norm=self.norm)).transpose(0, 1))
        if not self.weight:
            return {"": added}
        values = normalised(trace.to_pairs(trace.targeted).transpose(0, 1))
        return {"": torch.maximum(added, self.weight * values)}


def build(*, norm: bool = True, weight: float = 1.0) -> NamImage:
    """norm: take R through the final norm, or use the paper's plain product. weight: of the normalised value beside the
    normalised share."""
    return NamImage(norm, weight)
