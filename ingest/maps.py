"""Scores for every neuron, gathered example by example in constant memory, in any order, on any machine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from ingest.trace import Trace

MEAN, CONTRAST = "mean", "contrast"
REDUCTIONS = (MEAN, CONTRAST)
TEXT_TARGET = "text"

GRADIENT = "gradient"


@dataclass(frozen=True, slots=True)
class NeuronMap:
    """One score a neuron. concept None: every concept of the run. scores: (layer, neuron) float32; `layers` names
    the rows. examples: how many the scores average over."""

    concept: str | None
    source: str
    target: str
    reduce: str
    scores: Tensor
    layers: tuple[int, ...]
    examples: int


class Method(Protocol):
    """A streaming estimator; `ingest/methods/<name>.py` exposes `build(**parameters) -> Method`.

    needs: what the shared pass must provide besides values ("gradient").
    state: tensors that `merge` accepts, in any order and grouping, as if the examples had come in one pass.
    """

    needs: frozenset[str]

    def update(self, trace: Trace) -> None: ...
    def state(self) -> Mapping[str, Tensor]: ...
    def merge(self, state: Mapping[str, Tensor]) -> None: ...
    def result(self) -> Iterator[NeuronMap]: ...


@dataclass
class Means:
    """Sums and counts of (layer, neuron) scores under a key, on the CPU in float64, so order does not matter."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[str, Tensor] = field(default_factory=dict)
    layers: tuple[int, ...] = ()

    def add(self, key: str, scores: Tensor, count: int) -> None:
        """scores: (layer, neuron), already summed over `count` examples."""
        scores = scores.cpu().double()
        if key in self.sums:
            self.sums[key] += scores
            self.counts[key] += count
        else:
            self.sums[key] = scores
            self.counts[key] = torch.tensor(count)

    def state(self) -> dict[str, Tensor]:
        state = {f"sum|{k}": v for k, v in self.sums.items()} | {f"count|{k}": v for k, v in self.counts.items()}
        return {"layers": torch.tensor(self.layers), **state}

    def merge(self, state: Mapping[str, Tensor]) -> None:
        self.layers = self.layers or tuple(state["layers"].tolist())
        for name, value in state.items():
            kind, _, key = name.partition("|")
            if kind == "sum":
                self.add(key, value, int(state[f"count|{key}"]))

    def means(self) -> dict[str, tuple[Tensor, int]]:
        """key -> ((layer, neuron) float64 mean, examples), keys sorted."""
        return {k: (self.sums[k] / self.counts[k], int(self.counts[k])) for k in sorted(self.sums)}


class PairMethod(ABC):
    """Base of methods that give every (example, concept) pair a score per neuron: they differ in `score` only.

    A map is the mean over a concept's pairs, and the contrast: that mean minus the mean of the other concepts'
    means, which removes what the concepts of a run have in common.
    """

    needs: frozenset[str] = frozenset()
    reductions: tuple[str, ...] = REDUCTIONS

    def __init__(self) -> None:
        self.pairs = Means()

    @abstractmethod
    def score(self, trace: Trace, layer: int) -> Tensor:
        """(P, N): the score of every neuron of the layer for every pair of the batch; NaN where there is none."""

    def layers(self, trace: Trace) -> tuple[int, ...]:
        """The layers this method scores: all that were traced."""
        return trace.layers

    def update(self, trace: Trace) -> None:
        self.pairs.layers = self.layers(trace)
        names = sorted(set(trace.concepts))
        member = torch.tensor([[float(c == name) for c in trace.concepts] for name in names], device=trace.pairs.device)
        summed = torch.stack([member @ self.score(trace, layer) for layer in self.pairs.layers], 1)  # (concepts, L, N)
        for i, name in enumerate(names):
            self.pairs.add(f"{trace.source}|{name}", summed[i], int(member[i].sum()))

    def state(self) -> Mapping[str, Tensor]:
        return self.pairs.state()

    def merge(self, state: Mapping[str, Tensor]) -> None:
        self.pairs.merge(state)

    def result(self) -> Iterator[NeuronMap]:
        means = self.pairs.means()
        for key, (mean, examples) in means.items():
            source, _, concept = key.partition("|")
            for reduce in self.reductions:
                scores = mean
                if reduce == CONTRAST:
                    others = [m for k, (m, _) in means.items() if k != key and k.startswith(f"{source}|")]
                    if not others:
                        continue  # one concept alone has nothing to contrast with
                    scores = mean - torch.stack(others).mean(0)
                yield NeuronMap(concept, source, TEXT_TARGET, reduce, scores.float(), self.pairs.layers, examples)
