"""Modality-specific neurons: MINER's importances pooled over runs, and the best of each modality by a strategy.

Huang et al. 2024. The importance of a modality is the weighted sum of its metrics (`miner.mean`, ...), averaged over
the datasets in which the modality occurs; several runs of one dataset count as one, their mean. A split determines
which token roles are distinguished, and a strategy how many neurons of which layer and modality are taken
(`ingest.label_rules._strategies`). A modality that does not occur, or whose importances are all 0, is left out. The
score is the importance.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from atlas.errors import UsageError, unknown
from ingest.analyse.labelling import RunMaps
from ingest.attribution.labels import LabelledNeurons, chosen
from ingest.attribution.miner_weights import METRICS, SPLITS, parse_weights
from ingest.label_rules._strategies import PUBLISHED, RANDOM, TIES, select


class Miner:
    """See the module. strategy, ratio, weights, split, seed, ties: as in `build`."""

    method = "miner"

    def __init__(self, strategy: str, ratio: float, weights: str, split: str, seed: int, ties: str):
        if split not in SPLITS:
            raise unknown("split", split, SPLITS, "atlas labels make --help")
        if ties not in TIES:
            raise unknown("order of ties", ties, TIES, "atlas labels make --help")
        self.strategy, self.ratio, self.weights, self.split, self.seed = strategy, ratio, weights, split, seed
        self.ties = ties

    def label(self, runs: Sequence[RunMaps]) -> Iterator[LabelledNeurons]:
        if len({run.parameters["normalise"] for run in runs}) > 1:
            raise UsageError("these runs normalise their scores differently; choose runs with the same miner.normalise")
        metrics, weights = self._weighted(runs)
        roles = [r for r in SPLITS[self.split] if any(run.has(metrics[0], r) for run in runs)]
        by_role = {role: pooled(runs, role, metrics, weights) for role in roles}
        by_role = {role: scores for role, scores in by_role.items() if scores.any()}
        if not by_role:
            raise UsageError(f"none of the runs has a modality of the split {self.split}")
        roles, importance = list(by_role), np.stack(list(by_role.values()))
        masks = select(importance, self.ratio, self.strategy, self.seed, self.ties)
        rule = f"miner {self.strategy} {self.ratio:g} {self.split} {','.join(f'{w:g}' for w in self._all(runs))}"
        rule += f" ties {PUBLISHED}" if self.ties == PUBLISHED else ""
        rule += f" seed {self.seed}" if self.seed or self.strategy == RANDOM else ""
        if self.strategy == RANDOM:  # drawn for no modality
            roles, masks = [RANDOM], masks[:1]
            importance = importance.mean(0, keepdims=True)
        if not masks.any():
            raise UsageError(f"a ratio of {self.ratio:g} leaves no neuron for each part of {self.strategy}; give more")
        for role, mask, scores in zip(roles, masks, importance, strict=True):
            yield chosen(role, rule, runs[0].layers, mask, scores)

    def _all(self, runs: Sequence[RunMaps]) -> tuple[float, ...]:
        return parse_weights(self.weights, attention=all(run.parameters["attention"] for run in runs))

    def _weighted(self, runs: Sequence[RunMaps]) -> tuple[list[str], list[float]]:
        """The metrics' maps that have a weight, and the weights."""
        pairs = [(f"miner.{m}", w) for m, w in zip(METRICS, self._all(runs), strict=True) if w]
        return [name for name, _ in pairs], [w for _, w in pairs]


def pooled(runs: Sequence[RunMaps], role: str, metrics: Sequence[str], weights: Sequence[float]) -> np.ndarray:
    """(L, N): the mean over the datasets that have the role of the weighted sum of the metrics."""
    with_role = [run for run in runs if run.has(metrics[0], role)]
    datasets = Counter(run.dataset for run in with_role)
    summed = sum(
        w * run.scores(name, role) / datasets[run.dataset]
        for run in with_role
        for name, w in zip(metrics, weights, strict=True)
    )
    return np.asarray(summed) / len(datasets)


def build(
    *,
    strategy: str = "LA_MU",
    ratio: float = 0.02,
    weights: str = "",
    split: str = "special_text_separate",
    seed: int = 0,
    ties: str = "drawn",
) -> Miner:
    """strategy: LA_MU | adaptive | LU_MA | uniform | random. ratio: share of all neurons to choose. weights: of
    prob,mean,max,attn_k,attn_q, or a preset's name. split: special_text_separate | special_text_as_one | prompt.
    seed: of random, and of the order of equal importances. ties: drawn, or published: the first layers first."""
    return Miner(strategy, ratio, weights, split, seed, ties)
