"""The nearest neurons of a neuron or of a vector, as an answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from atlas.neurons import Neuron

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, slots=True)
class Near:
    """Neurons near something, best first. rows: component, layer, neuron, similarity (or another measure), tokens,
    concept (the one in whose map the neuron ranks best, of the method that `atlas query` would take). provenance: the
    space, the model, and under "assumed" what was left open."""

    rows: pa.Table
    provenance: Mapping[str, Any]

    def __len__(self) -> int:
        return int(self.rows.num_rows)

    @property
    def neurons(self) -> tuple[Neuron, ...]:
        columns = (self.rows[name].to_pylist() for name in ("component", "layer", "neuron"))
        return tuple(Neuron(*address) for address in zip(*columns, strict=True))

    def to_arrow(self) -> pa.Table:
        return self.rows
