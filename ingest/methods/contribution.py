"""Value where the concept is predicted, times the unembedding row on the write vector.

Pan et al. 2023, "Finding and Editing Multi-Modal Neurons in Pre-Trained Transformers": the score of neuron n
of layer l for token w predicted at position t is

    S[l, n] = A[l, t, n] * (W_u[w] . v[l, n])

with v the neuron's write vector and W_u the unembedding. It is the neuron's direct effect on the token's logit,
up to the final norm; `norm=true` folds that in, with its scale frozen at position t, which makes the scores of
all components sum to the logit. The paper scores the first token of a word; here every token counts unless the
job says otherwise.

The paper's released code (opanhw/MM_Neurons) reads the *gate* tap of gated FFNs: the activation function's output,
without the product with the up projection, whose sign is lost so. Of the two taps' ten best neurons 2 to 7 are the
same. `docs/methods.md` says how to run the released variant.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ingest.attribution.estimators import IMAGE_TARGET, TEXT_TARGET, PairMethod
from ingest.attribution.trace import Trace


class Contribution(PairMethod):
    """See the module. norm: whether to fold the final norm into the direction."""

    targets = frozenset({TEXT_TARGET, IMAGE_TARGET})

    def __init__(self, norm: bool):
        super().__init__()
        self.norm = norm

    def scores(self, trace: Trace) -> Mapping[str, Tensor]:
        return {"": trace.to_pairs(trace.contributions(norm=self.norm)).transpose(0, 1)}


def build(*, norm: bool = False) -> Contribution:
    """norm: fold the final norm into the direction; False is the paper's plain product."""
    return Contribution(norm)
