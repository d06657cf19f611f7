"""Integrated gradients of one layer's neurons, with everything below the layer computed once.

The FFN adds A @ W_out^T to the residual stream, so scaling a layer's neurons by s means subtracting (1 - s) of what
they wrote from its output h, and dy/dA = dy/dh . v. A step of the path therefore restarts the model after the layer,
whatever the number of neurons, at the positions that the path can reach; the steps of all pairs run as copies of one
batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from atlas.errors import AtlasWarning
from atlas.live.edit.restart import Restarts, layer_output, resume
from atlas.live.edit.suffix import Suffix
from atlas.live.hooks import tracing
from atlas.neurons import INPUT
from ingest.attribution.trace import Trace

ENDPOINTS = ("right", "midpoint", "both")


def nodes(steps: int, endpoints: str) -> Tensor:
    """(steps,) where on the path, from 0 to 1, gradients are taken, with equal weights.

    right: j/m for j = 1..m (NAM). midpoint: (j - 1/2)/m, the most exact. both: linspace(0, 1, m), starting at zero, as
    in the released code of knowledge neurons.
    """
    if endpoints == "both":
        return torch.linspace(0, 1, steps)
    return (torch.arange(1, steps + 1) - (0.5 if endpoints == "midpoint" else 0.0)) / steps


class SlowPath(AtlasWarning):
    """A model's layers cannot be run at the last positions alone."""


class PathGradients:
    """Path-averaged gradients of a batch. tokens: the most positions run in one batch."""

    def __init__(self, steps: int, endpoints: str, positions: str, output: str, tokens: int):
        self.nodes = nodes(steps, endpoints)
        self.positions, self.output, self.tokens = positions, output, tokens
        self._restarts = Restarts()
        self._warned = False

    def attribute(self, trace: Trace, layer: int) -> Tensor:
        """(P, N): the sum over the positions of A * mean gradient along the path from 0 to A."""
        write = trace.live.layout.write_vectors(layer)
        first, where, hidden = self._begin(trace, layer)
        values = trace.values(layer)[:, first:][trace.pairs] * where[..., None]
        wrote = (values.to(write.dtype) @ write.T).to(hidden.dtype)  # (P, T - first, d_model)
        total = torch.zeros_like(hidden, dtype=torch.float32)
        for copied, scales in self._copies(hidden):
            removed = (1 - scales).to(hidden.dtype)[:, None, None]
            leaf = (hidden[copied] - removed * wrote[copied]).requires_grad_(True)
            total.index_add_(0, copied, self._gradient(trace, layer, leaf, leaf, copied, first).float())
        gradient = (total / len(self.nodes)) @ write.float()
        return (values * gradient).sum(1)

    def attribute_inputs(self, trace: Trace, layer: int) -> Tensor:
        """(P, N): the same along the path from 0 to z, the input of a plain FFN's activation function: the sum of
        z * mean dy/dz.

        Raises:
            Unsupported: the FFN has a gate.
        """
        write = trace.live.layout.write_vectors(layer)
        _, act = trace.live.layout.activation(layer)
        first, where, hidden = self._begin(trace, layer)
        inputs = self._inputs(trace)[layer].detach()[:, first:][trace.pairs] * where[..., None].to(hidden.dtype)
        values = trace.capture.values[layer].detach()[:, first:][trace.pairs]
        total = torch.zeros(values.shape, device=values.device)
        for copied, scales in self._copies(hidden):
            leaf = (scales.to(inputs.dtype)[:, None, None] * inputs[copied]).requires_grad_(True)
            with torch.enable_grad():
                change = (act(leaf) - values[copied]) * where[copied][..., None]
                state = hidden[copied] + (change.to(write.dtype) @ write.T).to(hidden.dtype)
            total.index_add_(0, copied, self._gradient(trace, layer, leaf, state, copied, first).float())
        return (inputs.float() * total / len(self.nodes)).sum(1)

    def _begin(self, trace: Trace, layer: int) -> tuple[int, Tensor, Tensor]:
        """The first position that the path changes; from there on, the positions that count, (P, T - first) bool, and
        the state after the layer, (P, T - first, d_model)."""
        self._restarts.check(trace.live.layout, trace.capture, layer, trace.source)
        where = trace.where(self.positions)
        first = self._first(trace, where)
        return first, where[:, first:], layer_output(trace.capture, layer).detach()[:, first:][trace.pairs]

    def _copies(self, hidden: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Every pair at every node of the path, in batches: the pairs, and how far along the path they are."""
        copies = [(p, float(s)) for s in self.nodes for p in range(len(hidden))]
        step = max(1, self.tokens // hidden.shape[1])
        for begin in range(0, len(copies), step):
            pairs, scales = zip(*copies[begin : begin + step], strict=True)
            yield torch.tensor(pairs, device=hidden.device), torch.tensor(scales, device=hidden.device)

    def _inputs(self, trace: Trace) -> Mapping[int, Tensor]:
        """layer -> (B, T, N): the activation functions' inputs, from one more pass over the batch."""
        if (INPUT,) not in trace.shared:
            with torch.no_grad(), tracing(trace.live.layout, layers=trace.layers, tap=INPUT) as capture:
                trace.live.forward(trace.batch)
            trace.shared[INPUT,] = capture.values
        inputs: Mapping[int, Tensor] = trace.shared[INPUT,]
        return inputs

    def _first(self, trace: Trace, where: Tensor) -> int:
        """The first position that the path changes; 0 where the model cannot be restarted there."""
        key = ("suffix", self.positions)
        if key not in trace.shared:  # kept there, so that it goes with the trace whose state it holds
            trace.shared[key] = Suffix(trace.live.layout, trace.capture, int(where.any(0).nonzero()[0]))
            if trace.shared[key].refused and not self._warned:
                self._warned = True
                warnings.warn(
                    f"{trace.live.name} runs whole sequences at every step of integrated gradients, which takes "
                    f"several times as long: {trace.shared[key].refused}",
                    SlowPath,
                    stacklevel=2,
                )
        suffix: Suffix = trace.shared[key]
        return suffix.begin if suffix.works else 0

    @torch.enable_grad()
    def _gradient(self, trace: Trace, layer: int, leaf: Tensor, state: Tensor, pairs: Tensor, first: int) -> Tensor:
        """The derivative of each copy's output by its leaf. state: (copies, T - first, d_model), the state after the
        layer, computed from the leaf."""
        rows = trace.pairs[pairs]
        if first:
            last = trace.shared["suffix", self.positions].resume(layer + 1, state, rows)
        else:
            last = resume(trace.live.layout, trace.capture, layer + 1, state, rows)
        copy, target = (pairs[:, None] == trace.pair_of[None]).nonzero(as_tuple=True)
        final = trace.live.layout.norm(last[copy, trace.positions[target] - first])
        weighted = trace.outputs(final, target, self.output) * trace.weights[target]
        (gradient,) = torch.autograd.grad(weighted.sum(), leaf)
        return gradient
