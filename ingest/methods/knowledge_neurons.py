"""In how many of a concept's prompts a neuron is among the strongest by integrated gradients, minus the usual suspects.

Dai et al. 2022, "Knowledge Neurons in Pretrained Transformers". In one prompt the coarse set is

    {(l, n): IG[l, n] > threshold * max IG}

with IG the integrated gradient of the word's probability at the predicting position. A neuron's score is the share of
the concept's prompts (each example is one) whose coarse set has it; the refined set is where that is above `share`.
Neurons whose share among the other concepts' prompts is above `share` too are removed (they get no score). The part
`knowledge_neurons.coarse` keeps them.

The released code (EleutherAI/knowledge-neurons) differs in two ways, which parameters follow. It scales what the first
FFN layer gives, for GPT-2 *before* the activation function, where another path and other scores come of it (tap=input;
plain FFNs only; with tap=product it is the neurons' values, and a gate's values scaled have the same path). And its
removal of negatives never matches (negatives=kept).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from atlas.errors import UsageError
from atlas.neurons import INPUT, PRODUCT
from ingest.attribution.estimators import TEXT_TARGET, NeuronMap
from ingest.attribution.reductions import MEAN
from ingest.attribution.trace import Trace, one_of
from ingest.methods.integrated_gradients import IntegratedGradients

COARSE = "coarse"
REMOVED, KEPT = "removed", "kept"


class KnowledgeNeurons(IntegratedGradients):
    """See the module. threshold: of the largest gradient. share: of prompts. tap, negatives: as in `build`."""

    targets = frozenset({TEXT_TARGET})  # a picture has no probability
    supported = (MEAN,)

    def __init__(
        self, steps: int, endpoints: str, threshold: float, share: float, tokens: int, tap: str, negatives: str
    ):
        super().__init__(steps, endpoints, "predicting", "probability", tokens)
        self.tap = one_of("tap", tap, (PRODUCT, INPUT))
        self.negatives = one_of("negatives", negatives, (REMOVED, KEPT))
        if not (0 < threshold < 1 and 0 <= share < 1):
            raise UsageError("knowledge_neurons: threshold must be between 0 and 1, and share from 0 to below 1")
        self.threshold, self.share = threshold, share

    def score(self, trace: Trace, layer: int) -> Tensor:
        return self.paths.attribute_inputs(trace, layer) if self.tap == INPUT else super().score(trace, layer)

    def scores(self, trace: Trace) -> Mapping[str, Tensor]:
        gradients = torch.stack([self.score(trace, layer) for layer in trace.layers])  # (L, P, N)
        peak = gradients.amax((0, 2), keepdim=True)
        return {COARSE: ((gradients > self.threshold * peak) & (peak > 0)).float()}

    def result(self) -> Iterator[NeuronMap]:
        for neuron_map in super().result():
            yield neuron_map
            own_key = f"{COARSE}|{neuron_map.source}|{neuron_map.concept}"
            others = [k for k in self.pairs.sums if k != own_key and k.startswith(f"{COARSE}|{neuron_map.source}|")]
            scores = neuron_map.scores
            if others and self.negatives == REMOVED:
                sums = torch.stack([self.pairs.sums[k] for k in others]).sum(0)
                share_elsewhere = sums / sum(self.pairs.counts[k] for k in others)
                scores = scores.masked_fill(share_elsewhere > self.share, torch.nan)
            yield replace(neuron_map, scores=scores, part="")


def build(
    *,
    steps: int = 20,
    endpoints: str = "both",
    threshold: float = 0.3,
    share: float = 0.5,
    tokens: int = 8192,
    tap: str = "product",
    negatives: str = "removed",
) -> KnowledgeNeurons:
    """steps, endpoints: of the path (see integrated_gradients). threshold: of the largest IG in a prompt. share: of
    the other concepts' prompts above which a neuron is removed. tokens: positions run in one batch. tap: product, or
    input as released. negatives: removed, or kept as released."""
    return KnowledgeNeurons(steps, endpoints, threshold, share, tokens, tap, negatives)
