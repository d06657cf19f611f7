"""The exact effect of zeroing one neuron at every position on the concept's log-probability, neuron by neuron.

CE in NAM's list of baselines (Fang et al. 2024), and the reference that the other methods estimate:

    S[l, n] = y(as it is) - y(A[l, :, n] = 0)

The pass restarts at the layer after the neuron's, from the traced residual stream minus what the neuron wrote,
and many (row, neuron) pairs run in one batch. A neuron that is exactly zero up to the last predicting position has
effect zero and is not run. `layers` and `neurons` restrict the candidates; others are left out of the maps.

For a model in half precision the restarted layers, and y(as it is), are computed in float32 from the traced state on:
in bfloat16, an effect below a few thousandths is rounding. Weights in 8 or 4 bits are used as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from atlas.errors import UsageError
from atlas.live.edit.restart import Restarts, layer_output, resume
from atlas.live.hooks import check_layers
from atlas.live.layout import Layout
from atlas.live.matmul import HALF, calling
from atlas.live.quantised import dense
from atlas.neurons import LANGUAGE, Neuron, parse_layers
from ingest.attribution.estimators import IMAGE_TARGET, TEXT_TARGET, PairMethod
from ingest.attribution.trace import Trace

REHEARSED = 32
"""How many neurons of a layer tell what all of them cost."""


class Ablation(PairMethod):
    """See the module. layers, neurons: the candidates, or "" for all. tokens: positions run in one batch."""

    targets = frozenset({TEXT_TARGET, IMAGE_TARGET})
    unscored = True  # neurons that are not candidates
    restarts = True

    def __init__(self, layers: str, neurons: str, tokens: int):
        super().__init__()
        self.chosen = parse_layers(layers) if layers else ()
        self.candidates: dict[int, list[int]] = {}
        for neuron in (Neuron.parse(text) for text in neurons.split(",") if text.strip()):
            if neuron.component != LANGUAGE:
                raise UsageError(f"ablation has no neuron {neuron}: it scores the language model's, as in 3/117")
            self.candidates.setdefault(neuron.layer, []).append(neuron.index)
        self.sampled: list[int] = []
        self.tokens = tokens
        self.notes: dict[str, str] = {}
        self._restarts = Restarts()

    def rehearse(self, width: int, scored: Sequence[int]) -> dict[int, float]:
        """Take REHEARSED neurons of every layer from now on; layer -> how many times as many a job takes there."""
        counts = {layer: len(self.candidates.get(layer, ())) if self.candidates else width for layer in scored}
        chosen = set(self.chosen or scored)
        self.chosen, self.candidates = (), {}
        self.sampled = list(range(0, width, max(1, width // REHEARSED)))
        return {layer: count / len(self.sampled) if layer in chosen else 0.0 for layer, count in counts.items()}

    def layers(self, trace: Trace) -> tuple[int, ...]:
        _check_names(trace.live.layout, self.chosen, self.candidates)
        requested = set(self.candidates or trace.layers) & set(self.chosen or trace.layers)
        scored_layers = tuple(layer for layer in trace.layers if layer in requested)
        if not scored_layers:
            scored = ", ".join(map(str, trace.layers))
            raise UsageError(
                f"ablation.layers and ablation.neurons have none of the layers that this job scores: {scored}"
            )
        return scored_layers

    @torch.no_grad()
    def score(self, trace: Trace, layer: int) -> Tensor:
        trace.require_product("ablation")
        values = trace.values(layer)
        effects = torch.zeros(len(trace.concepts), values.shape[-1], device=values.device)
        rows, neurons = self._active(trace, layer, values, effects)
        if not len(rows):
            return effects
        self._restarts.check(trace.live.layout, trace.capture, layer, trace.source)
        hidden, clean = _start(trace, layer)
        if hidden.dtype in HALF:
            self.notes["precision"] = (
                "ablation: weights in 8 or 4 bits compute in half precision, so that effects below a few thousandths "
                "are rounding; load the model without quantization to measure them"
            )
        step = max(1, min(self.tokens // values.shape[1], 2**26 // trace.live.layout.vocabulary))
        for begin in range(0, len(rows), step):
            chunk = slice(begin, begin + step)
            _ablate(trace, layer, hidden, values, rows[chunk], neurons[chunk], clean, effects)
        return effects

    def _active(self, trace: Trace, layer: int, values: Tensor, effects: Tensor) -> tuple[Tensor, Tensor]:
        """The (row, neuron) pairs to run; neurons that are not candidates become NaN in `effects`."""
        last = torch.zeros(values.shape[0], dtype=torch.long, device=values.device)
        last.scatter_reduce_(0, trace.rows, trace.positions, "amax")
        before_last = torch.arange(values.shape[1], device=values.device)[None] <= last[:, None]
        active = ((values != 0) & before_last[..., None]).any(1)
        if indices := self.candidates.get(layer, self.sampled):
            index = torch.tensor(indices, device=values.device)
            chosen = torch.zeros(values.shape[-1], dtype=torch.bool, device=values.device)
            chosen[index] = True
            active &= chosen
            effects[:, ~chosen] = torch.nan
        rows, neurons = active.nonzero(as_tuple=True)
        return rows, neurons


def _check_names(layout: Layout, layers: tuple[int, ...], candidates: Mapping[int, Sequence[int]]) -> None:
    """Raise UsageError for a layer or a neuron that the model does not have."""
    check_layers(layout, (*layers, *candidates))
    for layer, indices in candidates.items():
        if max(indices) >= layout.width:
            raise UsageError(
                f"no neuron {layer}/{max(indices)}; layer {layer} has neurons {layer}/0 to {layer}/{layout.width - 1}"
            )


def _start(trace: Trace, layer: int) -> tuple[Tensor, Tensor]:
    """(B, T, d_model): the traced state after the layer, and (P,) each pair's log-probability computed from it; both
    in float32 where the model is in half precision."""
    hidden, layout = layer_output(trace.capture, layer).detach(), trace.live.layout
    if hidden.dtype not in HALF or dense(layout.down[layer]) is not None:
        return hidden, trace.clean
    hidden, rows = hidden.float(), torch.arange(len(trace.items), device=hidden.device)
    positions, place = trace.places
    final_inputs = _final(trace, layer, hidden if layer < len(layout.layers) - 1 else _gather(hidden, positions), rows)
    final = calling(layout.norm, final_inputs[trace.rows, place])
    return hidden, trace.to_pairs(trace.outputs(final))


def _final(trace: Trace, layer: int, hidden: Tensor, rows: Tensor) -> Tensor:
    """(copies, k, d_model): the final norm's input at the rows' predicting positions, from the state after a layer;
    after the last layer, `hidden` has only these positions."""
    if layer == len(trace.live.layout.layers) - 1:
        return hidden
    only = trace.places[0][rows]
    return _gather(resume(trace.live.layout, trace.capture, layer + 1, hidden, rows, only), only)


def _without(trace: Trace, layer: int, hidden: Tensor, values: Tensor, rows: Tensor, neurons: Tensor) -> Tensor:
    """(copies, k, d_model): `_final` of each row without what its neuron wrote. hidden: (B, T, d_model)."""
    write = trace.live.layout.write_vectors(layer)
    value, state = values[rows, :, neurons], hidden[rows]
    if layer == len(trace.live.layout.layers) - 1:
        only = trace.places[0][rows]
        value, state = value.gather(1, only), _gather(state, only)
    state = state - (value[..., None] * write[:, neurons].T[:, None].float()).to(state.dtype)
    return _final(trace, layer, state, rows)


def _gather(hidden: Tensor, positions: Tensor) -> Tensor:
    """(copies, k, d_model) from (copies, T, d_model) at (copies, k) positions."""
    return hidden.gather(1, positions[..., None].expand(-1, -1, hidden.shape[-1]))


def _ablate(
    trace: Trace,
    layer: int,
    hidden: Tensor,
    values: Tensor,
    rows: Tensor,
    neurons: Tensor,
    clean: Tensor,
    effects: Tensor,
) -> None:
    """Write the effect of each (row, neuron) into `effects`, (P, N). hidden, clean: see `_start`."""
    _, place = trace.places
    states = _without(trace, layer, hidden, values, rows, neurons)
    copy, target = (rows[:, None] == trace.rows[None]).nonzero(as_tuple=True)  # every target of a copy's row
    final = calling(trace.live.layout.norm, states[copy, place[target]])
    logp = trace.outputs(final, target)
    copy_row, pair = (rows[:, None] == trace.pairs[None]).nonzero(as_tuple=True)
    effects[pair, neurons[copy_row]] = clean[pair]
    effects.index_put_((trace.pair_of[target], neurons[copy]), -logp * trace.weights[target], accumulate=True)


def build(*, layers: str = "", neurons: str = "", tokens: int = 2048) -> Ablation:
    """layers: which layers, for example 8-15; all by default. neurons: which candidates, for example
    3/117,2/40, or @FILE with one a line; all by default. tokens: positions run in one batch."""
    return Ablation(layers, neurons, tokens)
