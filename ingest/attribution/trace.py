"""What methods see of one forward pass over a batch; methods read it and do not run the model themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from atlas.errors import Unsupported, UsageError
from atlas.live.attention import weights
from atlas.live.encode import PAD, Batch
from atlas.live.hooks import Capture, tracing
from atlas.live.matmul import product
from atlas.live.media import KINDS
from atlas.live.model import LiveModel
from atlas.live.norms import behind_ffn, direct_directions
from atlas.neurons import PRODUCT
from atlas.token_roles import ROLES
from ingest.attribution.derivatives import Gradients, counted, differentiated
from ingest.attribution.finite import FiniteCheck
from ingest.attribution.item import Item
from ingest.attribution.position_sums import sent
from ingest.attribution.positions import INPUT

ATTENTION = "attention"
"""The need of a method that reads attention weights."""

LOG_PROBABILITY, LOGIT, PROBABILITY = "log_probability", "logit", "probability"
OUTPUTS = (LOG_PROBABILITY, LOGIT, PROBABILITY)
"""The outputs of a token that may be explained."""


def one_of(name: str, value: str, known: Sequence[str]) -> str:
    """The value of a method's parameter, checked to be a known one.

    Raises:
        UsageError: it is not."""
    if value not in known:
        raise UsageError(f"no {name} called '{value}'; there are: {', '.join(known)}")
    return value


class Trace:
    """Neuron values of one batch of one source, and the outputs that they led to.

    Sizes: batch rows B, positions T, neurons N, targets K (tokens to explain), pairs P (a row and a concept).
    rows, positions, tokens, weights: (K,), the row, predicting position, token id and weight of each target.
    pairs: (P,) row of each pair; pair_of: (K,) each target's pair; concepts: each pair's concept name.
    shared: results that one method computed from the trace and others may reuse. target: what is explained, "text".
    """

    target = "text"

    def __init__(self, live: LiveModel, batch: Batch, capture: Capture, items: Sequence[Item], source: str, tap: str):
        self.live, self.batch, self.capture = live, batch, capture
        self.items, self.source, self.tap = items, source, tap
        self._gradients: dict[str, Gradients] = {}
        self.finite = FiniteCheck(live.dtype)
        self.finite.of_pass(capture, batch.roles != PAD, [item.number for item in items])
        self.shared: dict[tuple[object, ...], Any] = {}
        if len({value.device for value in capture.values.values()} | {live.device}) > 1:
            raise Unsupported("attribution needs all layers on one device; leave out [[device_map]]")
        keys = list(dict.fromkeys((r, t.concept) for r, item in enumerate(items) for t in item.targets))
        pair_index = {key: p for p, key in enumerate(keys)}
        flat = [(r, t) for r, item in enumerate(items) for t in item.targets]
        device = live.device
        self.concepts = [concept for _, concept in keys]
        self.row_of = [r for r, _ in keys]  # `pairs`, known without asking the device
        self.pairs = sent(self.row_of, device)
        self.rows = sent([r for r, _ in flat], device)
        self.positions = sent([batch.starts[r] + t.index - 1 for r, t in flat], device)
        self.tokens = sent([items[r].prompt.answer[t.index] for r, t in flat], device)
        self.weights = sent([t.weight for _, t in flat], device)
        self.pair_of = sent([pair_index[r, t.concept] for r, t in flat], device)

    @property
    def layers(self) -> tuple[int, ...]:
        """The traced layers, in order."""
        return tuple(sorted(self.capture.values))

    @cached_property
    def real(self) -> Tensor:
        """(B, T) bool: positions that are not padding."""
        return self.batch.roles != PAD

    @property
    def lengths(self) -> list[int]:
        """How many positions of each row are not padding, which is on the right."""
        return [len(item.prompt.ids) + len(item.prompt.answer) for item in self.items]

    def values(self, layer: int) -> Tensor:
        """(B, T, N) float32 neuron values of the run's tap."""
        return self.capture.values[layer].detach().float()

    def attention(self, layer: int, *, causal: bool = True, among: Tensor | None = None) -> Tensor:
        """(B, T, T) float32 attention weights, query by key, averaged over the heads; 0 for padding.

        Recomputed at every call; needs a pass traced with attention. causal: as the model computed them; else
        softmax(QK^T / sqrt(d_head)) without a causal mask. among: (B, T) bool, without a causal mask, the only
        positions that count; by default all that are not padding.
        """
        keys = self.real if among is None else among
        return weights(self.live.layout, self.capture, layer, keys, causal=causal).float().mean(1)

    @cached_property
    def targeted(self) -> Tensor:
        """(K, L, N) neuron values of all traced layers where each target is predicted, in the model's dtype."""
        return torch.stack([self._at_targets(self.capture.values[layer].detach()) for layer in self.layers], 1)

    def at_targets(self, layer: int) -> Tensor:
        """(K, N) float32 of `targeted`."""
        return self.targeted[:, self.layers.index(layer)].float()

    def to_pairs(self, scores: Tensor) -> Tensor:
        """(P, ...) from (K, ...): the weighted sum over each pair's targets."""
        dtype = torch.promote_types(scores.dtype, torch.float32)
        summed = torch.zeros(len(self.concepts), *scores.shape[1:], dtype=dtype, device=scores.device)
        weights = self.weights.view(-1, *[1] * (scores.dim() - 1))
        step = max(1, len(scores) * 2**26 // max(1, scores.numel()))  # a picture has hundreds of targets
        for first in range(0, len(scores), step):
            chunk = slice(first, first + step)
            summed = summed.index_add(0, self.pair_of[chunk], scores[chunk] * weights[chunk])
        return summed

    def where(self, positions: str) -> Tensor:
        """(P, T) bool: the positions that count for each pair. positions: one of POSITIONS."""
        if positions == INPUT and self.source not in KINDS:
            return self._named
        if positions == INPUT:
            positions = self.source
        if positions in KINDS:
            return self.batch.roles[self.pairs] == ROLES.index(positions)
        if positions == "all":
            return self.real[self.pairs]
        where = torch.zeros(len(self.concepts), self.batch.roles.shape[1], dtype=torch.bool, device=self.pairs.device)
        where[self.pair_of, self.positions] = True
        return where

    @cached_property
    def _named(self) -> Tensor:
        """(P, T) bool: the tokens of the prompt that name each pair's concept."""
        where = torch.zeros(len(self.concepts), self.batch.roles.shape[1], dtype=torch.bool)
        for pair, (row, concept) in enumerate(zip(self.row_of, self.concepts, strict=True)):
            where[pair, list(self.items[row].named.get(concept, ()))] = True
        return where.to(self.pairs.device)

    @cached_property
    def places(self) -> tuple[Tensor, Tensor]:
        """(B, k) int64: each row's predicting positions, the last repeated up to k; (K,): each target's index there."""
        rows = self.rows.tolist()
        row_counts: dict[int, int] = {}
        target_place = [counted(row_counts, row) for row in rows]
        positions = torch.zeros(len(self.items), max(target_place) + 1, dtype=torch.long, device=self.rows.device)
        for row, column, position in zip(rows, target_place, self.positions.tolist(), strict=True):
            positions[row, column:] = position
        return positions, torch.tensor(target_place, device=self.rows.device)

    def require_product(self, method: str) -> None:
        """Raise Unsupported where the values are the gate's and not the down projection's inputs."""
        if self.tap != PRODUCT and any(self.live.layout.gates[layer] is not None for layer in self.layers):
            raise Unsupported(f"{method} reads the product tap; use [[tap=product]]")

    def final_at_targets(self) -> tuple[Tensor, Tensor]:
        """(K, d_model) each: the final norm's input and output where each target is predicted."""
        return self._at_targets(self.capture.norm_in).detach(), self._at_targets(self.capture.norm_out).detach()

    def _at_targets(self, hidden: Tensor | None) -> Tensor:
        assert hidden is not None, "the traced pass did not reach the final norm"
        return hidden[self.rows, self.positions]

    def outputs(self, final: Tensor, which: Tensor | None = None, output: str = LOG_PROBABILITY) -> Tensor:
        """(K,) log-probability (or another of OUTPUTS) of each target's token, from (K, d_model) outputs of the final
        norm; or only of the targets `which`, (n,) int64, from (n, d_model)."""
        logits = self.live.logits(final)
        if output != LOGIT:
            logits = logits.log_softmax(-1)
        values = logits.gather(-1, (self.tokens if which is None else self.tokens[which])[:, None])[:, 0]
        return values.exp() if output == PROBABILITY else values

    @cached_property
    def clean(self) -> Tensor:
        """(P,) each pair's log-probability: the weighted mean over its tokens."""
        return self.to_pairs(self.outputs(self._at_targets(self.capture.norm_out))).detach()

    def verdicts(self) -> tuple[Tensor, Tensor]:
        """For each pair, (P,): how many of its tokens are not the model's first choice, and its log-probability."""
        final = self._at_targets(self.capture.norm_out)
        logits = self.live.logits(final)
        miss = torch.zeros(len(self.concepts), dtype=torch.long, device=logits.device)
        miss.index_add_(0, self.pair_of, (logits.argmax(-1) != self.tokens).long())
        logp = logits.log_softmax(-1).gather(-1, self.tokens[:, None])[:, 0]
        return miss, self.to_pairs(logp)

    def directions(self, norm: bool) -> Tensor:
        """(K, d_model) direction whose inner product with a write vector is its direct effect on the target's logit.

        norm: whether to go through the final norm; without it, in the model's dtype."""
        if ("directions", norm) not in self.shared:
            final_norm = self.final_at_targets() if norm else ()
            self.shared["directions", norm] = direct_directions(self.live.layout, self.tokens, *final_norm)
        return self.shared["directions", norm]  # type: ignore[no-any-return]

    def write_directions(self, layer: int, norm: bool) -> Tensor:
        """(K, d_model): `directions` for the layer's write vectors, through the norm after its FFN, if there is one."""
        layout, directions = self.live.layout, self.directions(norm)
        if layout.after[layer] is None:
            return directions
        self.require_product("a direct effect through the norm behind the FFN")
        down = layout.down[layer]
        wrote = down.forward(self.capture.values[layer].detach()[self.rows, self.positions])
        return behind_ffn(layout, layer, directions, wrote.float())

    def contributions(self, *, norm: bool = False) -> Tensor:
        """(K, L, N): each value times the inner product of its write vector with the target's direction (see
        `directions`); methods share it."""
        key = ("contributions", norm)
        if key not in self.shared:
            products = torch.empty(self.targeted.shape, device=self.targeted.device)
            for index, layer in enumerate(self.layers):
                effects = product(self.write_directions(layer, norm), self.live.layout.write_vectors(layer))
                torch.mul(self.targeted[:, index], effects, out=products[:, index])
            self.shared[key] = products
        return self.shared[key]  # type: ignore[no-any-return]

    def gradients_of(self, output: str) -> Gradients:
        """The derivative of each pair's output (one of OUTPUTS) by every neuron value: [(pairs, layer -> (B, T, N))],
        in the model's dtype.

        Needs a pass traced with gradients. To keep concepts of one row apart, the first concept of every row is
        differentiated in one backward pass, the second in the next, and so on; `pairs` are an entry's pairs, at most
        one a row. Methods that explain the same output share the passes.
        """
        if output not in self._gradients:
            summed = self.to_pairs(self.outputs(self._at_targets(self.capture.norm_out), output=output))
            values = {layer: self.capture.values[layer] for layer in self.layers}
            self._gradients[output] = differentiated(summed, self.row_of, values, self._check_gradients)
        return self._gradients[output]

    def _check_gradients(self, by_layer: Mapping[int, Tensor]) -> None:
        numbers = [item.number for item in self.items]
        self.finite.of_values(by_layer, self.real, numbers, "the gradients in layer {}")

    def twin(self, draw: int = 0) -> Capture:
        """The same pass on the counterfactual pictures, once for every pair: values are (P, T, N).

        draw: 0 without the concept, from 1 without an equal region elsewhere. Pairs without a twin see their own
        picture. Runs the model; methods that use it declare the need TWIN.

        Raises:
            Unsupported: the pictures' inputs take another number of positions.
        """
        prompts = []
        for row, concept in zip(self.row_of, self.concepts, strict=True):
            item = self.items[row]
            prompts.append(item.twins[concept][draw] if concept in item.twins else item.prompt)
        batch = self.live.batch(prompts)
        if not torch.equal(batch.roles, self.batch.roles[self.pairs, : batch.roles.shape[1]]):
            raise Unsupported("a counterfactual picture takes other positions than its original; use other pictures")
        with torch.no_grad(), tracing(self.live.layout, layers=self.layers, tap=self.tap) as capture:
            self.live.forward(batch)
        numbers = [self.items[row].number for row in self.row_of]
        self.finite.of_pass(capture, batch.roles != PAD, numbers)
        return capture


@contextmanager
def traced(
    live: LiveModel,
    items: Sequence[Item],
    source: str,
    *,
    layers: Sequence[int] | None,
    tap: str,
    grad: bool,
    attention: bool = False,
    later: FiniteCheck | None = None,
) -> Iterator[Trace]:
    """Run one teacher-forced pass over a batch and yield its trace.

    later: collects this pass's finiteness notes, to check many passes at once.

    Raises:
        NotFinite: after the block, where the model's output or a gradient is NaN or infinite.
    """
    batch = live.batch([item.prompt for item in items])
    with (
        torch.set_grad_enabled(grad),
        tracing(live.layout, layers=layers, tap=tap, grad=grad, attention=attention) as capture,
    ):
        logits = live.forward(batch)
    if capture.norm_out is not None:
        live.check_logits(capture.norm_out, logits)
    with torch.set_grad_enabled(grad):
        yield (trace := Trace(live, batch, capture, items, source, tap))
    trace.finite.done(later)
