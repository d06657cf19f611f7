"""Contribution of the neurons that say the word above all others, or the value itself where that is larger.

Text neurons of NAM (Fang et al. 2024, "Towards Neuron Attributions in Multi-Modal Large Language Models"). With
c = A[l, t, n] * (W_u[w] . v[l, n]) the contribution to the word w predicted at t, kept where w is the neuron's own
first choice (`filter`), and zero elsewhere:

    S[l, n] = max( c / max |c| ,  weight * A[l, t, n] / max |A| )

the maxima running over all neurons. A neuron's choice is the token that it raises most: the top of its write vector
through the unembedding where its value is positive, the bottom where it is negative, special tokens apart. The exact
filter and the weight are not stated in what could be read of the paper; both are options.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from atlas.errors import UsageError
from atlas.live.logit_lens import choices
from ingest.attribution.estimators import PairMethod, normalised
from ingest.attribution.trace import Trace, one_of

FILTERS = ("argmax", "topk", "none")


class NamText(PairMethod):
    """See the module. filter: one of FILTERS. top, weight: as in `build`."""

    def __init__(self, filter: str, top: int, weight: float):
        super().__init__()
        self.filter = one_of("filter", filter, FILTERS)
        if top < 1 or weight < 0:
            raise UsageError("nam_text: top must be at least 1 and weight at least 0")
        self.top, self.weight = 1 if filter == "argmax" else top, weight
        self._choices: dict[tuple[int, str], Tensor] = {}

    def scores(self, trace: Trace) -> Mapping[str, Tensor]:
        products = trace.contributions()
        if self.filter != "none":
            chosen = [self._chosen(trace, layer, trace.at_targets(layer)) for layer in trace.layers]
            products = products * torch.stack(chosen, 1)
        added, values = (normalised(trace.to_pairs(x).transpose(0, 1)) for x in (products, trace.targeted))
        return {"": torch.maximum(added, self.weight * values)}

    def _chosen(self, trace: Trace, layer: int, value: Tensor) -> Tensor:
        """(K, N) bool: the target is among the tokens that the neuron, at its value, raises most."""
        if not self._choices:
            self._choices = choices(trace.live, self.top)
        top, bottom = (
            (self._choices[layer, side].to(value.device)[None] == trace.tokens[:, None, None]).any(-1)
            for side in ("top", "bottom")
        )
        return torch.where(value > 0, top, bottom & (value < 0))


def build(*, filter: str = "argmax", top: int = 10, weight: float = 1.0) -> NamText:
    """filter: argmax | topk | none, which neurons' contributions count. top: how many tokens topk looks at. weight: of
    the normalised value beside the normalised contribution."""
    return NamText(filter, top, weight)
