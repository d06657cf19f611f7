"""Computed edits: a solver's input and output, and the cached passes behind it.

A solver is one file of `ingest/solvers/`: `build(**parameters)` returns an object with `solve(problem) -> Solution`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from atlas.edits.edit import Intervention
from atlas.errors import UsageError
from atlas.live.edit.restart import resume
from atlas.live.encode import PAD, SPECIAL, TEXT_ROLE, Batch
from atlas.live.hooks import Capture, tracing, writing
from atlas.live.model import LiveModel
from atlas.neurons import Neuron
from ingest.attribution.item import Item, shortest_first
from ingest.run.encode_examples import batches
from ingest.solve.swaps import SwapCase


@dataclass(frozen=True, slots=True)
class Problem:
    """A solver's input.

    cases: the answers to change. suppress: whether the word should only disappear. keep: answered prompts that must
    stay as they are. goals: examples of what the cases should become, for solvers of representations. neurons: those
    that may change, the best first; None: the solver chooses. batch_size: of a forward pass.
    """

    live: LiveModel
    cases: Sequence[SwapCase]
    suppress: bool = False
    keep: Sequence[Item] = ()
    goals: Sequence[Item] = ()
    neurons: Sequence[Neuron] | None = None
    batch_size: int = 16
    seed: int = 0
    progress: Callable[[int, int], None] = lambda done, total: None


@dataclass(frozen=True, slots=True)
class Solution:
    """A solver's result. report: what it did and how well, as plain values."""

    intervention: Intervention
    report: Mapping[str, Any] = field(default_factory=dict)


class Solver(Protocol):
    """Computes interventions."""

    def solve(self, problem: Problem) -> Solution:
        """Compute an intervention.

        Raises:
            UsageError: the problem is not one for this solver.
        """
        ...


@dataclass(frozen=True, slots=True)
class Weights:
    """The weights of the loss terms; see `objective`."""

    kl: float = 1.0
    repetition: float = 10.0
    norm: float = 0.1
    keep: float = 1.0

    def __post_init__(self) -> None:
        for name in ("kl", "repetition", "norm", "keep"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UsageError(f"{name}={getattr(self, name):g} is not a weight of a loss; give 0 or more")


Writes = Mapping[int, tuple[Tensor, Tensor]]
"""layer -> the neurons whose write vectors change, (k,) int64, and by what, (k, d_model)."""


class CachedBatch:
    """One batch, traced once; each step restarts from the lowest edited layer.

    rows, positions, tokens: (K,), of each token of the words that should be said (or not). reference: (R, vocabulary)
    log-probabilities of the unedited model at `stay`, (R, 2) rows and positions.
    """

    def __init__(self, live: LiveModel, items: Sequence[Item], lowest: int, *, change: bool):
        self.live, self.lowest, self.change = live, lowest, change
        self.batch: Batch = live.batch([item.prompt for item in items])
        with torch.no_grad(), tracing(live.layout, layers=[]) as capture:
            live.forward(self.batch)
        self.capture: Capture = capture
        flat = [(r, t.index) for r, item in enumerate(items) for t in item.targets]
        device = live.device
        self.rows = torch.tensor([r for r, _ in flat], device=device)
        self.positions = torch.tensor([self.batch.starts[r] + i - 1 for r, i in flat], device=device)
        self.tokens = torch.tensor([items[r].prompt.answer[i] for r, i in flat], device=device)
        self.stay = self._stay()
        with torch.no_grad():
            self.reference = self._log_probs(self.traced(), self.stay[:, 0], self.stay[:, 1])

    def traced(self) -> Tensor:
        """(batch, position, d_model): the final norm's output of the unedited model."""
        assert self.capture.norm_out is not None, "the traced pass did not reach the final norm"
        return self.capture.norm_out

    def _stay(self) -> Tensor:
        """Where the model should stay the same: at positions of text, except where the words are predicted."""
        roles = self.batch.roles
        unchanged = (roles == TEXT_ROLE) | (roles == SPECIAL)
        if self.change:
            unchanged[self.rows, self.positions] = False
        else:  # the answers alone: from the position that predicts the first token on
            columns = torch.arange(roles.shape[1], device=roles.device)[None]
            unchanged = (roles != PAD) & (columns >= torch.tensor(self.batch.starts, device=roles.device)[:, None] - 1)
        return unchanged.nonzero()

    def _log_probs(self, final: Tensor, rows: Tensor, positions: Tensor) -> Tensor:
        return self.live.logits(final[rows, positions]).log_softmax(-1)

    def rerun(self, writes: Writes) -> Tensor:
        """(batch, position, d_model): the final norm's output with deltas added to the write vectors."""
        layout = self.live.layout
        hidden = self.capture.calls[self.lowest][0][0]
        everywhere = {y: [(index, deltas, lambda values: None)] for y, (index, deltas) in writes.items()}
        rows = torch.arange(hidden.shape[0], device=hidden.device)
        with writing(layout, everywhere):
            return layout.norm(resume(layout, self.capture, self.lowest, hidden, rows))  # type: ignore[no-any-return]

    def drift(self, final: Tensor) -> Tensor:
        """The mean divergence KL(before || now) where nothing should change."""
        now = self._log_probs(final, self.stay[:, 0], self.stay[:, 1])
        return (self.reference.exp() * (self.reference - now)).sum(-1).mean()

    def word_log_probs(self, final: Tensor) -> Tensor:
        """(K,) log-probability of each token of the words."""
        return self._log_probs(final, self.rows, self.positions).gather(-1, self.tokens[:, None])[:, 0]

    def unlikely(self, final: Tensor, *, behind: int = 0) -> Tensor:
        """(K,) -log(1 - p) of each token of the words, where it is predicted or `behind` positions later.

        Computed from the probabilities of all other tokens: exact, and with a gradient, even where p rounds to 1.
        """
        log_probs = self._log_probs(final, self.rows, self.positions + behind)
        return -log_probs.scatter(-1, self.tokens[:, None], -torch.inf).logsumexp(-1)

    def worst(self, values: Tensor) -> Tensor:
        """The mean over rows of each row's greatest value, from (K,) values of the words' tokens."""
        highest = values.new_full((len(self.batch),), -torch.inf).scatter_reduce(0, self.rows, values, "amax")
        return highest[~highest.isinf()].mean()


def cached_batches(problem: Problem, lowest: int, *, keep: bool = True) -> list[CachedBatch]:
    """The problem's cases, and the answers to keep, in cached batches."""
    traced = []
    cases = shortest_first([case.item() for case in problem.cases])
    for chunk in batches(cases, problem.batch_size):
        traced.append(CachedBatch(problem.live, chunk, lowest, change=True))
    for chunk in batches(shortest_first(list(problem.keep) if keep else []), problem.batch_size):
        traced.append(CachedBatch(problem.live, chunk, lowest, change=False))
    return traced


def objective(cached_batch: CachedBatch, writes: Writes, weights: Weights, *, suppress: bool) -> tuple[Tensor, Tensor]:
    """The loss of one batch without the norm term, and the (K,) probabilities of the words' tokens.

    For a replacement: max_i NLL_i + kl * KL(before || now) + repetition * max_i -log(1 - p(token i again)). For a word
    that should disappear, max_i -log(1 - p_i) replaces the first term and there is no third. The terms are those of the
    released code of FiNE (Pan et al. 2025). Answers to keep add keep * KL.
    """
    final = cached_batch.rerun(writes)
    if not cached_batch.change:
        return weights.keep * cached_batch.drift(final), torch.empty(0)
    logp = cached_batch.word_log_probs(final)
    loss = cached_batch.worst(cached_batch.unlikely(final) if suppress else -logp)
    if weights.kl:
        loss = loss + weights.kl * cached_batch.drift(final)
    if weights.repetition and not suppress:
        loss = loss + weights.repetition * cached_batch.worst(cached_batch.unlikely(final, behind=1))
    return loss, logp.detach().exp()


@dataclass(frozen=True, slots=True)
class Descent:
    """How parameters are learned: with Adam, for at most `epochs` over all batches, until the probability of the worst
    of the words' tokens is above `confidence` (below 1 - confidence, for a word that should disappear)."""

    lr: float
    epochs: int
    confidence: float

    def __post_init__(self) -> None:
        if not 0 < self.lr < math.inf or self.epochs < 1 or not 0 < self.confidence < 1:
            raise UsageError("lr must be above 0 and finite, epochs at least 1, confidence between 0 and 1")


def learn(
    problem: Problem,
    parameters: Sequence[Tensor],
    writes_of: Callable[[], Writes],
    lowest: int,
    weights: Weights,
    descent: Descent,
) -> dict[str, Any]:
    """Fit parameters so that the words are said (or not); only the parameters get gradients.

    writes_of: gives the deltas for the parameters' current values. Returns the report: epochs, losses, the worst
    probability before and after, and whether the confidence was reached.
    """
    traced_batches = cached_batches(problem, lowest, keep=bool(weights.keep))
    with torch.no_grad():
        said_before = [b.word_log_probs(b.traced()).exp().cpu() for b in traced_batches if b.change]
        before = _worst(said_before, suppress=problem.suppress)
    optimiser = torch.optim.Adam(list(parameters), lr=descent.lr)
    losses: list[float] = []
    worst: list[float] = []
    for epoch in range(descent.epochs):
        total, epoch_probabilities = 0.0, []
        for cached_batch in traced_batches:
            with torch.enable_grad():
                loss, probabilities = objective(cached_batch, writes_of(), weights, suppress=problem.suppress)
                norm = torch.stack([parameter.norm() for parameter in parameters]).sum()
                loss = loss + weights.norm * norm / len(traced_batches)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            total += loss.item() / len(traced_batches)
            epoch_probabilities.append(probabilities.cpu())
        losses.append(total)
        worst.append(_worst(epoch_probabilities, suppress=problem.suppress))
        problem.progress(epoch + 1, descent.epochs)
        if (1 - worst[-1] if problem.suppress else worst[-1]) > descent.confidence:
            break
    with torch.no_grad():
        final_probabilities = [
            objective(b, writes_of(), weights, suppress=problem.suppress)[1].cpu() for b in traced_batches
        ]
    after = _worst(final_probabilities, suppress=problem.suppress)
    reached = (1 - after if problem.suppress else after) > descent.confidence
    return {"epochs": len(losses), "losses": losses, "worst_before": before, "worst_after": after, "reached": reached}


def _worst(probabilities: Sequence[Tensor], *, suppress: bool) -> float:
    values = torch.cat(list(probabilities))
    return float(values.max() if suppress else values.min())
