"""Scores for every neuron, accumulated example by example in constant memory, in any order, on any machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from ingest.attribution.position_sums import sent
from ingest.attribution.positions import INPUT
from ingest.attribution.reductions import (
    AUROC,
    BINS,
    COHENS_D,
    CONTRAST,
    MEAN,
    REDUCTIONS,
    USUAL,
    auroc,
    bins,
    cohens_d,
)
from ingest.attribution.trace import Trace
from ingest.data.targets import NONE

TEXT_TARGET, IMAGE_TARGET = "text", "image"

GRADIENT, TWIN, REGION = "gradient", "twin", "region"

FAR_CELLS = 2**24
"""How many float64 sums `RunningMeans` keeps on a GPU at most: 128 MB."""


@dataclass(frozen=True, slots=True)
class NeuronMap:
    """One score a neuron. concept None: every concept of the run. scores: (layer, neuron) float32, NaN where there is
    none; `layers` names the rows. examples: how many the scores average over. part: a method that makes several maps
    of the same concept names each; it is stored as "method.part"."""

    concept: str | None
    source: str
    target: str
    reduce: str
    scores: Tensor
    layers: tuple[int, ...]
    examples: int
    part: str = ""


class Method(Protocol):
    """A streaming estimator; `ingest/methods/<name>.py` exposes `build(**parameters) -> Method`.

    sources: the only sources it can score ("image" for one that reads the image's positions), or None: all.
    targets: what it can explain, words ("text") or regions of drawn pictures ("image").
    needs: what the shared pass must provide besides values: GRADIENT; ATTENTION (`Trace.attention`); TWIN, more passes
    on counterfactual pictures (`Trace.twin`; `draws`, an attribute of such a method, says how many at random places);
    INPUT, where a text names the concept (`Item.named`); REGION, where a picture shows it (`Item.regions`).
    unscored: an attribute of methods for which NaN in the state means a neuron without a score; for all others NaN is
    an error (`ingest.attribution.finite.check_state`).
    restarts: an attribute, True, of methods that run the layers behind every scored layer again: `--dry-run` then
    takes what they cost to grow with the square of the layers (`ingest.run.cost`).
    rehearse: an expensive method's `rehearse(width, scored)` makes it do a part of its work, in every layer alike, from
    now on, and returns layer -> what the seconds of that part are to be multiplied by, for the layers `scored` that a
    job scores (`ingest.run.rehearse`).
    A method may also give labels (`ingest.attribution.labels.Labelling`), which the run stores beside the maps.
    """

    sources: frozenset[str] | None
    targets: frozenset[str]
    needs: frozenset[str]

    def update(self, trace: Trace) -> None:
        """Add a batch."""
        ...

    def state(self) -> Mapping[str, Tensor]:
        """Tensors that `merge` accepts, in any order and grouping, as if all examples had come in one pass."""
        ...

    def merge(self, state: Mapping[str, Tensor]) -> None:
        """Add what another estimator's `state` has."""
        ...

    def result(self) -> Iterator[NeuronMap]:
        """The maps of everything added so far."""
        ...


@dataclass
class RunningMeans:
    """Sums and counts of (layer, neuron) scores by key, on the CPU in float64, so that order does not matter.

    Scores on a GPU are first added up there, as every copy from it waits for all its pending work.
    """

    counts: dict[str, int] = field(default_factory=dict)
    layers: tuple[int, ...] = ()
    _sums: dict[str, Tensor] = field(default_factory=dict)
    _far: dict[str, Tensor] = field(default_factory=dict)

    def add(self, key: str, scores: Tensor, count: int) -> None:
        """scores: (layer, neuron), already summed over `count` examples."""
        self.counts[key] = self.counts.get(key, 0) + count
        if not _far(scores):
            self._add(self._sums, key, scores.cpu())
            return
        self._add(self._far, key, scores)
        if len(self._far) * scores.numel() > FAR_CELLS:
            self._fetch()

    @staticmethod
    def _add(sums: dict[str, Tensor], key: str, scores: Tensor) -> None:
        # Not in place: another object may hold the tensor.
        sums[key] = sums[key] + scores.double() if key in sums else scores.double()

    def _fetch(self) -> None:
        for key, far in self._far.items():
            self._add(self._sums, key, far.cpu())
        self._far.clear()

    @property
    def sums(self) -> dict[str, Tensor]:
        """key -> (layer, neuron) float64 sum, on the CPU."""
        self._fetch()
        return self._sums

    def state(self) -> dict[str, Tensor]:
        """Tensors that `merge` accepts."""
        state = {f"sum|{k}": v for k, v in self.sums.items()}
        state |= {f"count|{k}": torch.tensor(v) for k, v in self.counts.items()}
        return {"layers": torch.tensor(self.layers), **state}

    def merge(self, state: Mapping[str, Tensor]) -> None:
        """Add the sums and counts of another's `state`."""
        self.layers = self.layers or tuple(state["layers"].tolist())
        for name, value in state.items():
            kind, _, key = name.partition("|")
            if kind == "sum":
                self.add(key, value, int(state[f"count|{key}"]))

    def means(self) -> dict[str, tuple[Tensor, int]]:
        """key -> ((layer, neuron) float64 mean, examples), keys sorted."""
        return {k: (total / self.counts[k], self.counts[k]) for k, total in sorted(self.sums.items())}


def _far(scores: Tensor) -> bool:
    """Whether they are on a GPU that adds in float64."""
    return scores.device.type == "cuda"


class PairMethod:
    """Base of methods that give every (example, concept) pair a score per neuron.

    Subclasses define `score`, or `scores` where all layers together cost less, or where a neuron's score depends on
    other neurons.

    reductions: the maps to make of the pairs (see `ingest.attribution.reductions`); a job sets it before the first
    update. supported: those that make sense for the method. per_example: whether a single pair's scores are meaningful.
    """

    needs: frozenset[str] = frozenset()
    sources: frozenset[str] | None = None
    targets: frozenset[str] = frozenset({TEXT_TARGET})
    supported: tuple[str, ...] = REDUCTIONS
    per_example = True

    def __init__(self) -> None:
        self.reductions = tuple(r for r in USUAL if r in self.supported)
        self.pairs, self.squares = RunningMeans(), RunningMeans()
        self.histograms: dict[str, Tensor] = {}

    def score(self, trace: Trace, layer: int) -> Tensor:
        """(P, N): the score of every neuron of the layer for every pair of the batch; NaN where there is none."""
        raise NotImplementedError

    def scores(self, trace: Trace) -> Mapping[str, Tensor]:
        """part -> (L, P, N): the scores of all layers. One part without a name, unless a method has several."""
        return {"": torch.stack([self.score(trace, layer) for layer in self.layers(trace)])}

    def scored(self, trace: Trace) -> Sequence[bool]:
        """For every pair of the batch, whether the method has what it needs to score it."""
        if INPUT in self.needs:
            scored: list[bool] = trace.where(INPUT).any(1).tolist()
            return scored
        return [True] * len(trace.concepts)

    def scored_by(self, part: str, trace: Trace) -> Sequence[bool]:
        """`scored` of one part, for methods of which a part needs more than the others do."""
        return self.scored(trace)

    def layers(self, trace: Trace) -> tuple[int, ...]:
        """The layers this method scores: all that were traced."""
        return trace.layers

    def update(self, trace: Trace) -> None:
        self.pairs.layers = self.layers(trace)
        names = sorted(set(trace.concepts))
        if not any(self.scored(trace)):
            return
        exact = COHENS_D in self.reductions  # a variance is a small difference of large numbers
        for part, scores in self.scores(trace).items():
            scored = self.scored_by(part, trace)
            members = [[c == name and bool(s) for c, s in zip(trace.concepts, scored, strict=True)] for name in names]
            member = sent(members, trace.pairs.device).to(torch.float64 if exact else torch.float32)
            scores = scores.to(member.dtype)
            summed = torch.einsum("cp,lpn->cln", member, scores)
            squared = torch.einsum("cp,lpn->cln", member, scores**2) if exact else None
            for i, name in enumerate(names):
                key, count = f"{part}|{_side(trace)}|{name}", sum(members[i])
                if not count:
                    continue
                self.pairs.add(key, summed[i], count)
                if squared is not None:
                    self.squares.add(key, squared[i], count)
                if AUROC in self.reductions:
                    self._count(key, scores[:, members[i]])

    def _count(self, key: str, scores: Tensor) -> None:
        """Add (L, pairs, N) scores to a histogram, (L, N, BINS) int32."""
        bin_index = bins(scores.nan_to_num()).transpose(1, 2).cpu()
        if key not in self.histograms:
            self.histograms[key] = torch.zeros(*bin_index.shape[:2], BINS, dtype=torch.int32)
        self.histograms[key].scatter_add_(2, bin_index, torch.ones_like(bin_index, dtype=torch.int32))

    def state(self) -> Mapping[str, Tensor]:
        squares = {f"square|{key}": value for key, value in self.squares.sums.items()}
        histograms = {f"histogram|{key}": value for key, value in self.histograms.items()}
        return {**self.pairs.state(), **squares, **histograms}

    def merge(self, state: Mapping[str, Tensor]) -> None:
        self.pairs.merge(state)
        for name, value in state.items():
            kind, _, key = name.partition("|")
            if kind == "square":
                self.squares.add(key, value, int(state[f"count|{key}"]))
            elif kind == "histogram":
                self.histograms[key] = self.histograms[key] + value if key in self.histograms else value

    def result(self) -> Iterator[NeuronMap]:
        for key, (mean, examples) in self.pairs.means().items():
            part, side, concept = key.split("|", 2)
            source, target = sides_of(side)
            if concept == NONE:
                continue
            for reduce in self.reductions:
                scores = self._reduced(key, mean, reduce)
                if scores is not None:
                    layers = self.pairs.layers
                    yield NeuronMap(concept, source, target, reduce, scores.float(), layers, examples, part)

    def _reduced(self, key: str, mean: Tensor, reduce: str) -> Tensor | None:
        """(layer, neuron), or None where there is nothing to compare the concept with."""
        if reduce == MEAN:
            return mean
        others = [k for k in self.pairs.sums if k != key and k.split("|", 2)[:2] == key.split("|", 2)[:2]]
        if not others:
            return None
        if reduce == CONTRAST:
            return mean - _added(self.pairs.sums[k] / self.pairs.counts[k] for k in others) / len(others)
        if reduce == COHENS_D:
            return cohens_d(self._sums([key]), self._sums(others))
        area = auroc(self.histograms[key], _added(self.histograms[k] for k in others))
        return torch.where(mean.isnan(), torch.nan, area)

    def _sums(self, keys: Sequence[str]) -> tuple[Tensor, Tensor, int]:
        sums, squares = (_added(running.sums[k] for k in keys) for running in (self.pairs, self.squares))
        return sums, squares, sum(self.pairs.counts[k] for k in keys)


def _side(trace: Trace) -> str:
    """The source of a batch, with ">" and the target appended where that is not text."""
    return trace.source if trace.target == TEXT_TARGET else f"{trace.source}>{trace.target}"


def sides_of(side: str) -> tuple[str, str]:
    """(source, target) of a side, as `_side` writes it."""
    source, _, target = side.partition(">")
    return source, target or TEXT_TARGET


def normalised(scores: Tensor) -> Tensor:
    """(L, P, N) scores divided by each pair's largest absolute value."""
    return scores / scores.abs().amax((0, 2), keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)


def _added(tensors: Iterator[Tensor]) -> Tensor:
    """Their sum, with one of them in memory at a time."""
    total = next(tensors).clone()
    for tensor in tensors:
        total += tensor
    return total
