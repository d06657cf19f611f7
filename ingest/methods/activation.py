"""The neuron's value itself: where the concept is predicted, over the image's positions, or over all.

AcT in NAM's list of baselines (Fang et al. 2024). Beside the concept maps it keeps each source's plain mean and
minimum over all positions and concepts (concept `*`), which mean and minimum ablation need.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from ingest.maps import IMAGE_TARGET, TEXT_TARGET, Means, NeuronMap, PairMethod
from ingest.reductions import MEAN
from ingest.trace import POSITIONS, Trace, one_of, sources_with, sums

POOLS = ("mean", "max")
MINIMUM = "min"


class Activation(PairMethod):
    targets = frozenset({TEXT_TARGET, IMAGE_TARGET})

    def __init__(self, positions: str, pool: str):
        super().__init__()
        self.positions, self.pool = one_of("positions", positions, POSITIONS), one_of("pool", pool, POOLS)
        self.sources = sources_with(positions)
        self.overall = Means()
        self.lowest: dict[str, Tensor] = {}

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
        if trace.target != TEXT_TARGET:  # a request for a picture is not what a source's usual value is taken from
            return
        self.overall.layers = trace.layers
        real = trace.real[:, None].float()
        summed = torch.stack([sums(real, trace.values(layer))[:, 0].sum(0) for layer in trace.layers])
        self.overall.add(trace.source, summed, int(trace.real.sum()))
        self._lower(trace.source, torch.stack([_minimum(trace, layer) for layer in trace.layers]).cpu())

    def _lower(self, source: str, found: Tensor) -> None:
        self.lowest[source] = torch.minimum(found, self.lowest.get(source, found))

    def state(self) -> Mapping[str, Tensor]:
        overall = {f"overall|{k}": v for k, v in self.overall.state().items()}
        return {**super().state(), **overall, **{f"lowest|{source}": low for source, low in self.lowest.items()}}

    def merge(self, state: Mapping[str, Tensor]) -> None:
        super().merge({k: v for k, v in state.items() if not k.startswith(("overall|", "lowest|"))})
        for key, low in state.items():
            if key.startswith("lowest|"):
                self._lower(key.removeprefix("lowest|"), low)
        overall = {k.removeprefix("overall|"): v for k, v in state.items() if k.startswith("overall|")}
        self.overall.merge(overall)

    def result(self) -> Iterator[NeuronMap]:
        yield from super().result()
        for source, (mean, positions) in self.overall.means().items():
            yield NeuronMap(None, source, TEXT_TARGET, MEAN, mean.float(), self.overall.layers, positions)
            yield NeuronMap(None, source, TEXT_TARGET, MINIMUM, self.lowest[source], self.overall.layers, positions)


def _minimum(trace: Trace, layer: int) -> Tensor:
    """(N,) each neuron's least value at the batch's positions."""
    values = trace.values(layer)
    return values.masked_fill(~trace.real[..., None], torch.inf).amin((0, 1))


def build(*, positions: str = "predicting", pool: str = "mean") -> Activation:
    """positions: predicting | all | image | video | audio. pool: mean | max over them."""
    return Activation(positions, pool)
