"""The neuron's value itself: where the concept is predicted, over the image's positions, or over all.

AcT in NAM's list of baselines (Fang et al. 2024). Beside the concept maps it keeps each source's plain mean over
all positions and concepts (concept `*`), which mean-ablation needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from atlas.errors import UsageError
from ingest.maps import MEAN, TEXT_TARGET, Means, NeuronMap, PairMethod
from ingest.trace import POSITIONS, Trace

POOLS = ("mean", "max")


class Activation(PairMethod):
    def __init__(self, positions: str, pool: str):
        super().__init__()
        for name, value, known in (("positions", positions, POSITIONS), ("pool", pool, POOLS)):
            if value not in known:
                raise UsageError(f"no {name} called '{value}'; there are: {', '.join(known)}")
        self.positions, self.pool = positions, pool
        self.overall = Means()

    def score(self, trace: Trace, layer: int) -> Tensor:
        if self.positions == "predicting" and self.pool == "mean":
            return trace.to_pairs(trace.at_targets(layer))
        where = trace.where(self.positions)[..., None]
        values = trace.values(layer)[trace.pairs]
        if self.pool == "max":
            peak = values.masked_fill(~where, -torch.inf).amax(1)
            return torch.where(peak.isinf(), 0.0, peak)
        return (values * where).sum(1) / where.sum(1).clamp(min=1)

    def update(self, trace: Trace) -> None:
        super().update(trace)
        self.overall.layers = trace.layers
        summed = torch.stack([trace.values(layer)[trace.real].sum(0) for layer in trace.layers])
        self.overall.add(trace.source, summed, int(trace.real.sum()))

    def state(self) -> Mapping[str, Tensor]:
        return {**super().state(), **{f"overall|{k}": v for k, v in self.overall.state().items()}}

    def merge(self, state: Mapping[str, Tensor]) -> None:
        super().merge({k: v for k, v in state.items() if not k.startswith("overall|")})
        overall = {k.removeprefix("overall|"): v for k, v in state.items() if k.startswith("overall|")}
        self.overall.merge(overall)

    def result(self) -> Iterator[NeuronMap]:
        yield from super().result()
        for source, (mean, positions) in self.overall.means().items():
            yield NeuronMap(None, source, TEXT_TARGET, MEAN, mean.float(), self.overall.layers, positions)


def build(*, positions: str = "predicting", pool: str = "mean") -> Activation:
    """positions: predicting | all | image. pool: mean | max over them."""
    return Activation(positions, pool)
