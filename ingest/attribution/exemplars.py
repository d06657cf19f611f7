"""The examples on which each neuron is strongest, collected in constant memory."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ingest.attribution.position_sums import greatest, sent
from ingest.attribution.trace import Trace

FIELDS = ("example", "position", "token", "role")


class Exemplars:
    """For every source, layer and neuron, the `keep` examples with the largest value at any of their positions."""

    def __init__(self, keep: int):
        self.keep = keep
        self.values: dict[str, Tensor] = {}  # source -> (layer, keep, neuron), best first
        self.where: dict[str, Tensor] = {}  # source -> (field, layer, keep, neuron) int32, as in FIELDS
        self.layers: tuple[int, ...] = ()

    def update(self, trace: Trace) -> None:
        """Add a batch."""
        if not self.keep:
            return
        self.layers = trace.layers
        ids, roles = trace.batch.inputs["input_ids"], trace.batch.roles
        numbers = sent([item.number for item in trace.items], ids.device)
        values, peak_positions = greatest(
            [trace.capture.values[layer].detach() for layer in trace.layers], trace.lengths
        )
        rows = torch.arange(peak_positions.shape[1], device=peak_positions.device)[:, None].expand_as(peak_positions)
        fields = [numbers[rows], peak_positions, ids[rows, peak_positions], roles[rows, peak_positions]]
        self._take(trace.source, values.float(), torch.stack([f.to(torch.int32) for f in fields]))

    def _take(self, source: str, values: Tensor, where: Tensor) -> None:
        if source in self.values:
            stored_on = self.values[source].device
            values = torch.cat([self.values[source], values.to(stored_on)], 1)
            where = torch.cat([self.where[source], where.to(stored_on)], 2)
        order = _ranks(values, where[0]).topk(min(self.keep, values.shape[1]), dim=1).indices
        self.values[source] = values.gather(1, order)
        self.where[source] = where.gather(2, order.expand(len(where), *order.shape))

    def state(self) -> Mapping[str, Tensor]:
        """Tensors that `merge` accepts."""
        state = {f"values|{s}": v.cpu() for s, v in self.values.items()}
        state |= {f"where|{s}": w.cpu() for s, w in self.where.items()}
        return {"layers": torch.tensor(self.layers), **state}

    def merge(self, state: Mapping[str, Tensor]) -> None:
        """Add the examples of another's `state`."""
        self.layers = self.layers or tuple(state["layers"].tolist())
        for name, values in state.items():
            kind, _, source = name.partition("|")
            if kind == "values":
                self._take(source, values, state[f"where|{source}"])


def _ranks(values: Tensor, numbers: Tensor) -> Tensor:
    """int64, greater for a greater float32 value (NaN counts as infinity) and, among equal values, for the smaller
    example number, so that the same examples are kept whatever the batches were."""
    bits = (torch.where(values.isnan(), torch.inf, values) + 0.0).view(torch.int32)  # 0 and -0 get the same bits
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return (ordered.long() << 32) - numbers.long()
