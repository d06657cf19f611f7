"""The neuron's value itself: where the concept is predicted, over the image's positions, or over all.

AcT in NAM's list of baselines (Fang et al. 2024). Beside the concept maps it keeps each source's plain mean, mean
absolute value, standard deviation and minimum over all positions and concepts (concept `*`), which mean and minimum
ablation, shifts in standard deviations, and matched nulls and controls need.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from atlas.stats.loudness import MEAN_ABSOLUTE
from ingest.attribution.estimators import IMAGE_TARGET, TEXT_TARGET, NeuronMap, PairMethod, RunningMeans
from ingest.attribution.position_sums import least, sums
from ingest.attribution.positions import POSITIONS, need_of, sources_with
from ingest.attribution.reductions import MEAN
from ingest.attribution.trace import Trace, one_of

POOLS = ("mean", "max")
MINIMUM, DEVIATION = "min", "sd"
_SQUARE = "square"


class Activation(PairMethod):
    """See the module. positions: one of POSITIONS. pool: one of POOLS."""

    targets = frozenset({TEXT_TARGET, IMAGE_TARGET})

    def __init__(self, positions: str, pool: str):
        super().__init__()
        self.positions, self.pool = one_of("positions", positions, POSITIONS), one_of("pool", pool, POOLS)
        self.sources = sources_with(positions)
        self.needs = need_of(positions)
        self.overall = RunningMeans()
        self.lowest: dict[str, Tensor] = {}

    def scores(self, trace: Trace) -> Mapping[str, Tensor]:
        if self.positions == "predicting" and self.pool == "mean":
            return {"": trace.to_pairs(trace.targeted).transpose(0, 1)}
        return super().scores(trace)

    def score(self, trace: Trace, layer: int) -> Tensor:
        where = trace.where(self.positions)[..., None]
        values = trace.values(layer)[trace.pairs]
        if self.pool == "max":
            peak = values.masked_fill(~where, -torch.inf).amax(1)
            return torch.where(peak.isinf(), 0.0, peak)
        return (values * where).sum(1) / where.sum(1).clamp(min=1)

    def update(self, trace: Trace) -> None:
        super().update(trace)
        if trace.target != TEXT_TARGET:  # requests for pictures do not count for a source's usual values
            return
        self.overall.layers = trace.layers
        real = trace.real[:, None].float()
        values = [trace.capture.values[layer].detach() for layer in trace.layers]
        totals = [torch.stack([sums(real, powers)[:, 0].sum(0) for powers in (v, v.abs(), v.square())]) for v in values]
        for kind, total in zip((MEAN, MEAN_ABSOLUTE, _SQUARE), torch.stack(totals, 1), strict=True):
            self.overall.add(f"{kind}|{trace.source}", total, sum(trace.lengths))
        self._lower(trace.source, least(values, trace.lengths).float())

    def _lower(self, source: str, values: Tensor) -> None:
        lowest_so_far = self.lowest.get(source, values)
        self.lowest[source] = torch.minimum(values.to(lowest_so_far.device), lowest_so_far)

    def state(self) -> Mapping[str, Tensor]:
        overall = {f"overall|{k}": v for k, v in self.overall.state().items()}
        return {**super().state(), **overall, **{f"lowest|{s}": low.cpu() for s, low in self.lowest.items()}}

    def merge(self, state: Mapping[str, Tensor]) -> None:
        super().merge({k: v for k, v in state.items() if not k.startswith(("overall|", "lowest|"))})
        for key, low in state.items():
            if key.startswith("lowest|"):
                self._lower(key.removeprefix("lowest|"), low)
        overall = {k.removeprefix("overall|"): v for k, v in state.items() if k.startswith("overall|")}
        self.overall.merge(overall)

    def result(self) -> Iterator[NeuronMap]:
        yield from super().result()
        layers, means = self.overall.layers, self.overall.means()
        for key, (mean, positions) in means.items():
            kind, _, source = key.partition("|")
            if kind == _SQUARE:
                kind, mean = DEVIATION, (mean - means[f"{MEAN}|{source}"][0] ** 2).clamp(min=0).sqrt()
            yield NeuronMap(None, source, TEXT_TARGET, kind, mean.float(), layers, positions)
            if kind == MEAN:
                yield NeuronMap(None, source, TEXT_TARGET, MINIMUM, self.lowest[source].cpu(), layers, positions)


def build(*, positions: str = "predicting", pool: str = "mean") -> Activation:
    """positions: predicting | all | image | video | audio | input. pool: mean | max over them."""
    return Activation(positions, pool)
