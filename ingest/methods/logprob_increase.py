"""How much a neuron's own write raises the concept's log-probability, with the final norm's real scale: no gradients.

Yu & Ananiadou 2024, "Neuron-Level Knowledge Attribution in Large Language Models". Value neurons:

    S[l, n] = log p(w | h + A[l, t, n] v[l, n]) - log p(w | h)

with h the residual stream before the FFN of layer l adds its output, t the predicting position, and log p through the
final norm with its scale frozen at the real last layer's, so it is the exact direct effect. Query neurons (the part
`logprob_increase.query`) activate the pair's strongest value neurons: the sum over the `values` best of them, in later
layers, of A v[l, n] . key, the key being the row of the FFN's (gate's) input projection that the neuron reads with.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from atlas.errors import UsageError
from atlas.live.edit.restart import Restarts, layer_output
from atlas.live.norms import FrozenNorm
from ingest.attribution.estimators import PairMethod
from ingest.attribution.trace import Trace

QUERY = "query"
CELLS = 2**25
"""Logits held at once."""

IN_CACHE = 2**20
"""Logits that a CPU works on at once."""

SMALL = 4.0
"""Changes of a logit up to which the sum of p * (exp(change) - 1) stays far enough from -1 to be exact."""


class LogprobIncrease(PairMethod):
    """See the module. query: score query neurons too. values: how many value neurons they should activate."""

    def __init__(self, query: bool, values: int):
        super().__init__()
        if values < 1:
            raise UsageError("logprob_increase: values must be at least 1")
        self.query, self.values = query, values
        self._restarts = Restarts()

    @torch.no_grad()
    def scores(self, trace: Trace) -> Mapping[str, Tensor]:
        trace.require_product("logprob_increase")
        increases = torch.stack([trace.to_pairs(self._increase(trace, layer)) for layer in trace.layers])
        return {"": increases, QUERY: self._queries(trace, increases)} if self.query else {"": increases}

    def _increase(self, trace: Trace, layer: int) -> Tensor:
        """(K, N): how much each neuron's write raises each target's log-probability."""
        layout = trace.live.layout
        self._restarts.check(layout, trace.capture, layer, trace.source)
        norm = FrozenNorm(layout.norm, *trace.final_at_targets())
        values, writes = trace.at_targets(layer), layout.write_vectors(layer)
        after = layer_output(trace.capture, layer)[trace.rows, trace.positions]
        wrote = layout.down[layer](values.to(after.dtype)).float()
        before = trace.live.logits(norm(after.float() - wrote).to(layout.unembedding().dtype)).log_softmax(-1)  # (K, V)
        factors = norm.scale[:, None] * values  # (K, N): of what a unit write adds to the logits
        increases = torch.empty_like(values)
        step = max(1, CELLS // layout.vocabulary)
        unembedding = layout.unembedding()
        for begin in range(0, layout.width, step):
            block = slice(begin, begin + step)
            write = norm.unscaled(writes[:, block].T.float())
            raised = (write.to(unembedding.dtype) @ unembedding.T).float()  # (n, V): a unit write, scale 1
            increases[:, block] = increase_of(before, trace.tokens, factors[:, block], raised)
        return increases

    def _queries(self, trace: Trace, increases: Tensor) -> Tensor:
        """(L, P, N): the query neurons' scores, from the value neurons' (L, P, N)."""
        layout, width = trace.live.layout, increases.shape[-1]
        best = (
            increases.transpose(0, 1).flatten(1).topk(min(self.values, increases.shape[0] * width)).indices
        )  # (P, values)
        query_scores = torch.zeros_like(increases)
        key_sums = torch.zeros(
            increases.shape[1], layout.d_model, device=increases.device
        )  # by the value neurons above
        for index, layer in reversed(list(enumerate(trace.layers))):
            write = layout.write_vectors(layer)
            query_scores[index] = trace.to_pairs(trace.at_targets(layer)) * (key_sums.to(write.dtype) @ write).float()
            in_layer = best // width == index
            key_sums.index_add_(0, in_layer.nonzero()[:, 0], layout.keys(layer)[best[in_layer] % width].float())
        return query_scores


def increase_of(before: Tensor, tokens: Tensor, factors: Tensor, raised: Tensor) -> Tensor:
    """(K, n): how much each target's log-probability rises when factors[k, n] * raised[n] is added to the logits.

    before: (K, V) log-probabilities. tokens: (K,) each target's token. factors: (K, n). raised: (n, V).

    With p the probabilities before and x what is added, it is x[token] - log(1 + sum of p (exp(x) - 1)), which keeps
    the digits that the difference of two log-probabilities loses. Where some |x| is large, log-sum-exp takes its place.
    """
    increases = torch.empty_like(factors)
    probabilities = before.exp()
    step = len(raised) if raised.device.type != "cpu" else max(1, IN_CACHE // raised.shape[1])
    for begin in range(0, len(raised), step):
        part = slice(begin, begin + step)
        largest = raised[part].abs().amax(1)
        for k, token in enumerate(tokens.tolist()):
            factor = factors[k, part]
            added = raised[part] * factor[:, None]
            own = added[:, token].clone()
            total = (added.expm1_() @ probabilities[k]).log1p()
            large = (largest * factor.abs() > SMALL).nonzero()[:, 0]
            if len(large):
                total[large] = (before[k] + raised[part][large] * factor[large, None]).logsumexp(-1)
            increases[k, part] = own - total
    return increases


def build(*, query: bool = True, values: int = 30) -> LogprobIncrease:
    """query: score query neurons too. values: how many value neurons of a pair the query neurons are to activate."""
    return LogprobIncrease(query, values)
