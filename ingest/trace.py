"""What methods see of one forward pass over one batch; methods read it and never run the model themselves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from atlas.live.encode import IMAGE_ROLE, PAD, Batch, Prompt
from atlas.live.hooks import Capture, tracing
from atlas.live.layout import direct_directions
from atlas.live.model import LiveModel
from atlas.live.replay import layer_output
from ingest.concepts import Target

POSITIONS = ("predicting", "all", "image")
"""Which positions of a pass a method may read: where the words are predicted, all that are no padding, the image's."""


@dataclass(frozen=True, slots=True)
class Item:
    """One example, encoded with its answer, and the tokens of it to explain (at least one).

    number: its place among the run's examples.
    """

    number: int
    prompt: Prompt
    targets: tuple[Target, ...]


def shortest_first(items: Sequence[Item]) -> list[Item]:
    """The items by length, so that batches need little padding."""
    return sorted(items, key=lambda item: (len(item.prompt.ids) + len(item.prompt.answer), item.number))


class Trace:
    """Neuron values of one batch of one source, and what they led to.

    Sizes: batch rows B, positions T, neurons N, targets K (tokens to explain), pairs P (a row and a concept).
    rows, positions, tokens, weights: (K,), the row, predicting position, token id and weight of each target.
    pairs: (P,) row of each pair; pair_of: (K,) each target's pair; concepts: each pair's concept name.
    """

    def __init__(self, live: LiveModel, batch: Batch, capture: Capture, items: Sequence[Item], source: str, tap: str):
        self.live, self.batch, self.capture = live, batch, capture
        self.items, self.source, self.tap = items, source, tap
        keys = list(dict.fromkeys((r, t.concept) for r, item in enumerate(items) for t in item.targets))
        place = {key: p for p, key in enumerate(keys)}
        flat = [(r, t) for r, item in enumerate(items) for t in item.targets]
        device = live.device
        self.concepts = [concept for _, concept in keys]
        self.pairs = torch.tensor([r for r, _ in keys], device=device)
        self.rows = torch.tensor([r for r, _ in flat], device=device)
        self.positions = torch.tensor([batch.starts[r] + t.index - 1 for r, t in flat], device=device)
        self.tokens = torch.tensor([items[r].prompt.answer[t.index] for r, t in flat], device=device)
        self.weights = torch.tensor([t.weight for _, t in flat], device=device)
        self.pair_of = torch.tensor([place[r, t.concept] for r, t in flat], device=device)

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(sorted(self.capture.values))

    @cached_property
    def real(self) -> Tensor:
        """(B, T) bool: positions that are no padding."""
        return self.batch.roles != PAD

    def values(self, layer: int) -> Tensor:
        """(B, T, N) float32 neuron values of the run's tap."""
        return self.capture.values[layer].detach().float()

    def at_targets(self, layer: int) -> Tensor:
        """(K, N) float32 neuron values where each target is predicted."""
        return self.capture.values[layer].detach()[self.rows, self.positions].float()

    def to_pairs(self, scores: Tensor) -> Tensor:
        """(P, ...) from (K, ...): the weighted sum over each pair's targets."""
        weighted = scores * self.weights.view(-1, *[1] * (scores.dim() - 1))
        out = torch.zeros(len(self.concepts), *scores.shape[1:], dtype=scores.dtype, device=scores.device)
        return out.index_add(0, self.pair_of, weighted)

    def where(self, positions: str) -> Tensor:
        """(P, T) bool: the positions that count for each pair, by one of POSITIONS."""
        if positions == "image":
            return self.batch.roles[self.pairs] == IMAGE_ROLE
        if positions == "all":
            return self.real[self.pairs]
        where = torch.zeros(len(self.concepts), self.batch.roles.shape[1], dtype=torch.bool, device=self.pairs.device)
        where[self.pair_of, self.positions] = True
        return where

    @cached_property
    def places(self) -> tuple[Tensor, Tensor]:
        """(B, k) int64: each row's predicting positions, the last repeated up to k; (K,): each target's place there."""
        rows = self.rows.tolist()
        seen: dict[int, int] = {}
        place = [_count(seen, row) for row in rows]
        positions = torch.zeros(len(self.items), max(place) + 1, dtype=torch.long, device=self.rows.device)
        for row, column, position in zip(rows, place, self.positions.tolist(), strict=True):
            positions[row, column:] = position
        return positions, torch.tensor(place, device=self.rows.device)

    def final_input(self) -> Tensor:
        """(B, T, d_model): the residual stream as it entered the final norm."""
        return layer_output(self.capture, len(self.live.layout.layers) - 1)

    def _at_targets(self, hidden: Tensor | None) -> Tensor:
        assert hidden is not None, "the traced pass did not reach the final norm"
        return hidden[self.rows, self.positions]

    def log_probs(self, final: Tensor, tokens: Tensor | None = None) -> Tensor:
        """(K,) log-probability of each target's token (or of `tokens`), from (K, d_model) outputs of the final norm."""
        tokens = self.tokens if tokens is None else tokens
        return self.live.logits(final).log_softmax(-1).gather(-1, tokens[:, None])[:, 0]

    @cached_property
    def clean(self) -> Tensor:
        """(P,) each pair's log-probability: the weighted mean over its tokens."""
        return self.to_pairs(self.log_probs(self._at_targets(self.capture.norm_out))).detach()

    def verdicts(self) -> tuple[Tensor, Tensor]:
        """For each pair, (P,): how many of its tokens are not the model's first choice, and its log-probability."""
        final = self._at_targets(self.capture.norm_out)
        logits = self.live.logits(final)
        miss = torch.zeros(len(self.concepts), dtype=torch.long, device=logits.device)
        miss.index_add_(0, self.pair_of, (logits.argmax(-1) != self.tokens).long())
        logp = logits.log_softmax(-1).gather(-1, self.tokens[:, None])[:, 0]
        return miss, self.to_pairs(logp)

    def directions(self, norm: bool) -> Tensor:
        """(K, d_model) direction whose product with a write vector is the direct effect on the target's logit."""
        if not norm:
            return direct_directions(self.live.layout, self.tokens)
        before, after = self._at_targets(self.capture.norm_in), self._at_targets(self.capture.norm_out)
        return direct_directions(self.live.layout, self.tokens, before.detach(), after.detach())

    @cached_property
    def gradients(self) -> list[tuple[Tensor, dict[int, Tensor]]]:
        """The derivative of each pair's log-probability by every neuron value: [(pairs, layer -> (B, T, N))].

        Needs a pass traced with gradients. Concepts of the same row must not mix, so the first concept of every
        row is differentiated in one backward pass, the second of every row in the next, and so on; `pairs` says
        which pairs an entry is about, at most one a row.
        """
        summed = self.to_pairs(self.log_probs(self._at_targets(self.capture.norm_out)))
        seen: dict[int, int] = {}
        turn = torch.tensor([_count(seen, int(row)) for row in self.pairs], device=summed.device)
        turns = int(turn.max()) + 1
        values = [self.capture.values[layer] for layer in self.layers]
        out = []
        for j in range(turns):
            found = torch.autograd.grad(summed[turn == j].sum(), values, retain_graph=j + 1 < turns)
            grads = {layer: g.float() for layer, g in zip(self.layers, found, strict=True)}
            out.append(((turn == j).nonzero()[:, 0], grads))
        return out


def _count(seen: dict[int, int], key: int) -> int:
    seen[key] = seen.get(key, -1) + 1
    return seen[key]


@contextmanager
def traced(
    live: LiveModel, items: Sequence[Item], source: str, *, layers: Sequence[int] | None, tap: str, grad: bool
) -> Iterator[Trace]:
    """Run one teacher-forced pass over a batch and hand out its trace; the hooks live as long as the pass."""
    batch = live.batch([item.prompt for item in items])
    with torch.set_grad_enabled(grad), tracing(live.layout, layers=layers, tap=tap, grad=grad) as capture:
        live.forward(batch)
    with torch.set_grad_enabled(grad):
        yield Trace(live, batch, capture, items, source, tap)
