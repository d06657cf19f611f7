"""Seeded uniform scores: the control that every claim is read beside."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from ingest.attribution.estimators import IMAGE_TARGET, TEXT_TARGET, NeuronMap, PairMethod
from ingest.attribution.reductions import MEAN
from ingest.attribution.trace import Trace


class Random(PairMethod):
    """See the module. seed: of the scores."""

    targets = frozenset({TEXT_TARGET, IMAGE_TARGET})
    supported = (MEAN,)
    per_example = False

    def __init__(self, seed: int):
        super().__init__()
        self.seed = seed

    def scores(self, trace: Trace) -> Mapping[str, Tensor]:
        shape = len(trace.layers), len(trace.concepts), trace.live.layout.width
        return {"": torch.zeros(shape, device=trace.pairs.device)}

    def result(self) -> Iterator[NeuronMap]:
        for neuron_map in super().result():
            side = neuron_map.source if neuron_map.target == TEXT_TARGET else f"{neuron_map.source}>{neuron_map.target}"
            name = f"{self.seed}|{side}|{neuron_map.concept}"
            generator = torch.Generator().manual_seed(int(hashlib.sha256(name.encode()).hexdigest()[:15], 16))
            scores = torch.rand(neuron_map.scores.shape, generator=generator)
            yield NeuronMap(
                neuron_map.concept,
                neuron_map.source,
                neuron_map.target,
                MEAN,
                scores,
                neuron_map.layers,
                neuron_map.examples,
            )


def build(*, seed: int = 0) -> Random:
    """seed: another seed gives another control."""
    return Random(seed)
