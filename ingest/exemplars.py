"""The examples on which each neuron is strongest, kept in constant memory as batches go by."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ingest.trace import Trace

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
        numbers = torch.tensor([item.number for item in trace.items], device=ids.device)
        values, where = [], []
        for layer in trace.layers:
            peak, at = trace.values(layer).masked_fill(~trace.real[..., None], -torch.inf).max(1)  # (B, N)
            rows = torch.arange(len(at), device=at.device)[:, None].expand_as(at)
            fields = [numbers[rows], at, ids[rows, at], roles[rows, at]]
            values.append(peak.cpu())
            where.append(torch.stack([f.to(torch.int32) for f in fields]).cpu())
        self._take(trace.source, torch.stack(values), torch.stack(where, 1))

    def _take(self, source: str, values: Tensor, where: Tensor) -> None:
        if source in self.values:
            values = torch.cat([self.values[source], values], 1)
            where = torch.cat([self.where[source], where], 2)
        # Equal values go by example number, whatever the batches were.
        order = where[0].argsort(dim=1, stable=True)
        values, where = values.gather(1, order), where.gather(2, order.expand_as(where))
        order = values.argsort(dim=1, descending=True, stable=True)[:, : self.keep]
        self.values[source] = values.gather(1, order)
        self.where[source] = where.gather(2, order.expand(len(where), *order.shape))

    def state(self) -> Mapping[str, Tensor]:
        state = {f"values|{s}": v for s, v in self.values.items()} | {f"where|{s}": w for s, w in self.where.items()}
        return {"layers": torch.tensor(self.layers), **state}

    def merge(self, state: Mapping[str, Tensor]) -> None:
        self.layers = self.layers or tuple(state["layers"].tolist())
        for name, values in state.items():
            kind, _, source = name.partition("|")
            if kind == "values":
                self._take(source, values, state[f"where|{source}"])
