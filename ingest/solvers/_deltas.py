"""Deltas of write vectors as one parameter, for the solvers that learn them freely."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from atlas.edits.edit import Change, Intervention
from atlas.errors import UsageError
from atlas.live.layout import Layout
from atlas.neurons import LANGUAGE, Neuron
from ingest.solve.problem import Descent, Problem, Solution, Weights, Writes, learn


class Deltas:
    """A delta (d_model,) for each neuron, zero at first. value: (neurons, d_model) float32."""

    def __init__(self, layout: Layout, neurons: Sequence[Neuron], device: torch.device):
        if not neurons:
            raise UsageError("the selection has no neurons; loosen it ([[top]], [[select]], [[layers]])")
        if any(n.component != LANGUAGE for n in neurons):
            raise UsageError("only the language model's neurons can be edited")
        self.neurons = tuple(sorted(set(neurons)))
        self.value = torch.zeros(len(self.neurons), layout.d_model, device=device, requires_grad=True)
        self._rows: dict[int, torch.Tensor] = {}
        for layer in sorted({n.layer for n in self.neurons}):
            rows = [i for i, n in enumerate(self.neurons) if n.layer == layer]
            self._rows[layer] = torch.tensor(rows, device=device)
        self._index = torch.tensor([n.index for n in self.neurons], device=device)

    @property
    def lowest(self) -> int:
        """The lowest layer with a delta."""
        return min(self._rows)

    def writes(self) -> Writes:
        """The deltas by layer; they carry gradients."""
        return {layer: (self._index[rows], self.value[rows]) for layer, rows in self._rows.items()}

    def intervention(self) -> Intervention:
        """The intervention that adds the current deltas."""
        changes = tuple(Change(n, write=i) for i, n in enumerate(self.neurons))
        return Intervention(changes, deltas=self.value.detach().float().cpu().numpy())


def learned(problem: Problem, neurons: Sequence[Neuron], weights: Weights, descent: Descent) -> Solution:
    """Learn a free delta for each neuron."""
    deltas = Deltas(problem.live.layout, neurons, problem.live.device)
    report: dict[str, Any] = learn(problem, [deltas.value], deltas.writes, deltas.lowest, weights, descent)
    report |= {"neurons": len(deltas.neurons), "delta_norm": float(deltas.value.detach().norm())}
    return Solution(deltas.intervention(), report)
