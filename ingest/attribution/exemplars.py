"""The examples on which each neuron is strongest, kept in constant memory as batches go by."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ingest.attribution.position_sums import greatest, sent
from ingest.attribution.trace import Trace

FIELDS = ("example", "position", "token", "role")


class Exemplars:
    """For every source, layer and neuron the `keep` examples with the largest value at any of their positions."""

    def __init__(self, keep: int):
        self.keep = keep
        self.values: dict[str, Tensor] = {}  # source -> (layer, keep, neuron), best first
        self.where: dict[str, Tensor] = {}  # source -> (field, layer, keep, neuron) int32, as in FIELDS
        self.layers: tuple[int, ...] = ()

    def update(self, trace: Trace) -> None:
        if not self.keep:
            return
        self.layers = trace.layers
        ids, roles = trace.batch.inputs["input_ids"], trace.batch.roles
        numbers = sent([item.number for item in trace.items], ids.device)
        values, at = greatest([trace.capture.values[layer].detach() for layer in trace.layers], trace.lengths)
        rows = torch.arange(at.shape[1], device=at.device)[:, None].expand_as(at)
        fields = [numbers[rows], at, ids[rows, at], roles[rows, at]]
        self._take(trace.source, values.float(), torch.stack([f.to(torch.int32) for f in fields]))

    def _take(self, source: str, values: Tensor, where: Tensor) -> None:
        if source in self.values:
            mine = self.values[source].device
            values = torch.cat([self.values[source], values.to(mine)], 1)
            where = torch.cat([self.where[source], where.to(mine)], 2)
        order = _ranks(values, where[0]).topk(min(self.keep, values.shape[1]), dim=1).indices
        self.values[source] = values.gather(1, order)
        self.where[source] = where.gather(2, order.expand(len(where), *order.shape))

    def state(self) -> Mapping[str, Tensor]:
        state = {f"values|{s}": v.cpu() for s, v in self.values.items()}
        state |= {f"where|{s}": w.cpu() for s, w in self.where.items()}
        return {"layers": torch.tensor(self.layers), **state}

    def merge(self, state: Mapping[str, Tensor]) -> None:
        self.layers = self.layers or tuple(state["layers"].tolist())
        for name, values in state.items():
            kind, _, source = name.partition("|")
            if kind == "values":
                self._take(source, values, state[f"where|{source}"])


def _ranks(values: Tensor, numbers: Tensor) -> Tensor:
    """int64, greater for a greater float32 value (NaN counts as infinity), and of equal ones for the smaller example
    number: whatever the batches were, the same are kept."""
    bits = (torch.where(values.isnan(), torch.inf, values) + 0.0).view(torch.int32)  # of 0 and -0 the same
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return (ordered.long() << 32) - numbers.long()
