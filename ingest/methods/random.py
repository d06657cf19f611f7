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
        for found in super().result():
            side = found.source if found.target == TEXT_TARGET else f"{found.source}>{found.target}"
            name = f"{self.seed}|{side}|{found.concept}"
            generator = torch.Generator().manual_seed(int(hashlib.sha256(name.encode()).hexdigest()[:15], 16))
            scores = torch.rand(found.scores.shape, generator=generator)
            yield NeuronMap(found.concept, found.source, found.target, MEAN, scores, found.layers, found.examples)


def build(*, seed: int = 0) -> Random:
    """seed: another seed gives another control."""
    return Random(seed)
