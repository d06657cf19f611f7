"""Token representations of many examples in bounded memory: sums by role, and a seeded sample of tokens and examples.

The sample depends on a hash of seed, example and position alone, not on the order or the size of batches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from atlas.live.edit.restart import layer_output
from ingest.attribution.role_sums import prompt_masks
from ingest.attribution.trace import Trace

Token = tuple[int, int]
"""Number of the example, and position."""


def streams(trace: Trace, depths: Sequence[int]) -> Tensor:
    """(depths, B, T, d_model): the residual stream as it enters each layer; at the number of layers, its end."""
    return torch.stack(
        [trace.capture.calls[0][0][0] if depth == 0 else layer_output(trace.capture, depth - 1) for depth in depths]
    ).detach()


def priority(seed: int, *place: int) -> int:
    """A pseudo-random number, the same on every machine; the smallest are sampled."""
    text = " ".join(map(str, (seed, *place)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


class Representations:
    """Representations at the prompts' positions, of examples of one source.

    size: how many tokens of each role, and how many examples, are kept. sums: role -> (depths, d_model) float64;
    counts: role -> positions. tokens: role -> {(example, position): (depths, d_model)}. means: example -> {role:
    (depths, d_model)}, the mean over the role's positions in the example.
    """

    def __init__(self, depths: Sequence[int], size: int, seed: int):
        self.depths, self.size, self.seed = tuple(depths), size, seed
        self.sums: dict[str, np.ndarray] = {}
        self.counts: dict[str, int] = {}
        self.tokens: dict[str, dict[Token, np.ndarray]] = {}
        self.means: dict[int, dict[str, np.ndarray]] = {}
        self.examples = 0

    def update(self, trace: Trace) -> None:
        """Add a batch."""
        hidden = streams(trace, self.depths)
        masks = prompt_masks(trace)
        for role, mask in masks.items():
            chosen = hidden[:, mask].double().sum(1).cpu().numpy()
            self.sums[role] = self.sums.get(role, 0) + chosen
            self.counts[role] = self.counts.get(role, 0) + int(mask.sum())
            self._sample_tokens(trace, role, mask, hidden)
        self._sample_examples(trace, masks, hidden)
        self.examples += len(trace.items)

    def _sample_tokens(self, trace: Trace, role: str, mask: Tensor, hidden: Tensor) -> None:
        stored = self.tokens.setdefault(role, {})
        new = {(trace.items[row].number, t): (row, t) for row, t in mask.nonzero().tolist()}
        best = sorted({*stored, *new}, key=lambda token: priority(self.seed, *token))[: self.size]
        self.tokens[role] = {
            token: stored[token] if token in stored else _plain(hidden[:, new[token][0], new[token][1]])
            for token in best
        }

    def _sample_examples(self, trace: Trace, masks: dict[str, Tensor], hidden: Tensor) -> None:
        new_rows = {item.number: row for row, item in enumerate(trace.items)}
        best = sorted({*self.means, *new_rows}, key=lambda number: priority(self.seed, number))[: self.size]
        self.means = {n: self.means[n] if n in self.means else _of_row(hidden, masks, new_rows[n]) for n in best}


def _of_row(hidden: Tensor, masks: dict[str, Tensor], row: int) -> dict[str, np.ndarray]:
    return {role: _plain(hidden[:, row, mask[row]].float().mean(1)) for role, mask in masks.items() if mask[row].any()}


def _plain(vectors: Tensor) -> np.ndarray:
    return vectors.float().cpu().numpy().copy()  # a view would keep the whole batch
