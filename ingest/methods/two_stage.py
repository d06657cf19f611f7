"""Neurons whose value falls when the thing is inpainted, and of those the ones whose gradient says that it matters.

Sato & Takagi 2025, "Identifying Multi-modal Knowledge Neurons in Pretrained Transformers via Two-stage Filtering".
With A the values at the image's positions p, A' the same on the picture with the thing inpainted, and y the concept's
output, D pooled over p and g the largest over p:

    stage 1:  D[l, n] = A[l, p, n] - A'[l, p, n]
    stage 2:  g[l, n] = A[l, p, n] * dy / dA[l, p, n]

The map holds g of the neurons that pass both, D above a threshold and g above `least`; the parts `two_stage.stage1` and
`two_stage.stage2` hold D and g of all neurons. Thresholds of D: "auto", a false discovery rate of `fdr` against
inpainting the same shape elsewhere (`draws` a picture; `ingest.attribution.randomisation_test` has the test), with six
examples or more; "fraction", the largest share of all neurons; "absolute". It needs counterfactual pictures
(`--inpainter`) and scores pictures only. Its gradient is of the logit, as in GradCAM; output=log_probability shares the
other gradient methods' backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from atlas.errors import UsageError
from atlas.live.encode import IMAGE_ROLE
from ingest.attribution.estimators import GRADIENT, TWIN, NeuronMap, PairMethod
from ingest.attribution.randomisation_test import LEAST, assignments, exceeding, sums_of_contrasts
from ingest.attribution.trace import OUTPUTS, Trace, one_of
from ingest.data.targets import NONE

STAGE1, STAGE2 = "stage1", "stage2"
POOLS = ("max", "mean")
THRESHOLDS = ("auto", "fraction", "absolute")


class TwoStage(PairMethod):
    """See the module. levels: threshold -> its level. least: of stage 2. draws: random regions a picture."""

    needs = frozenset({GRADIENT, TWIN})
    sources = frozenset({"image"})

    def __init__(self, pool: str, threshold: str, levels: Mapping[str, float], least: float, output: str, draws: int):
        super().__init__()
        self.pool, self.threshold = one_of("pool", pool, POOLS), one_of("threshold", threshold, THRESHOLDS)
        self.output = one_of("output", output, OUTPUTS)
        if not 0 < levels["fraction"] <= 1 or not 0 < levels["auto"] < 1 or draws < 1:
            raise UsageError("two_stage: fraction and fdr must lie between 0 and 1, and draws be at least 1")
        self.level, self.least = levels[threshold], least
        self.draws = draws if threshold == "auto" else 0
        self.notes: dict[str, str] = {}

    def scored(self, trace: Trace) -> Sequence[bool]:
        """Whether it is known where each pair's pictures show the concept, so that it can be removed."""
        rows = zip(trace.row_of, trace.concepts, strict=True)
        return [concept == NONE or concept in trace.items[row].twins for row, concept in rows]

    def scores(self, trace: Trace) -> Mapping[str, Tensor]:
        parts = {STAGE1: self._difference(trace, 0), STAGE2: self._gradient(trace)}
        if self.draws:
            random_differences = [self._difference(trace, draw) for draw in range(1, self.draws + 1)]
            drawn = assignments(trace, self.draws + 1)
            parts |= sums_of_contrasts(torch.stack([parts[STAGE1], *random_differences]), drawn)
        return parts

    def _difference(self, trace: Trace, draw: int) -> Tensor:
        """(L, P, N): how far values fall without the concept; with draw above 0, without an equal region instead."""
        twin, where = trace.twin(draw), trace.where("image")
        return torch.stack(
            [
                self._pooled(trace.values(layer)[trace.pairs] - twin.values[layer].float(), where)
                for layer in trace.layers
            ]
        )

    def _gradient(self, trace: Trace) -> Tensor:
        """(L, P, N): the largest over the image's positions, as a neuron may pass at any of them."""
        others = (trace.batch.roles != IMAGE_ROLE)[..., None]
        out = torch.zeros(len(trace.layers), len(trace.concepts), trace.live.layout.width, device=trace.pairs.device)
        for pairs, gradients in trace.gradients_of(self.output):
            for place, layer in enumerate(trace.layers):
                product = trace.values(layer) * gradients[layer]
                out[place, pairs] = product.masked_fill_(others, -torch.inf).amax(1)[trace.pairs[pairs]]
        return out

    def _pooled(self, values: Tensor, where: Tensor) -> Tensor:
        """(P, N) from (P, T, N) and (P, T) bool."""
        if self.pool == "max":
            return values.masked_fill(~where[..., None], -torch.inf).amax(1)
        return (values * where[..., None]).sum(1) / where.sum(1)[:, None]

    def result(self) -> Iterator[NeuronMap]:
        means = {key: mean for key, (mean, _) in self.pairs.means().items()}
        for neuron_map in super().result():
            if neuron_map.part not in (STAGE1, STAGE2):
                continue
            yield neuron_map
            if neuron_map.part == STAGE2:
                suffix = f"|{neuron_map.source}|{neuron_map.concept}"
                passed_first = self._candidates(means, suffix, neuron_map)
                passed = passed_first & (means[STAGE2 + suffix] > self.least)
                if passed.any():
                    yield replace(neuron_map, scores=neuron_map.scores.masked_fill(~passed, torch.nan), part="")

    def _candidates(self, means: Mapping[str, Tensor], suffix: str, neuron_map: NeuronMap) -> Tensor:
        """(L, N) bool: what passes stage 1."""
        difference = means[STAGE1 + suffix]
        if self.threshold == "absolute":
            return difference > self.level
        if self.threshold == "fraction":
            count = max(1, round(self.level * difference.numel()))
            return difference >= difference.flatten().topk(count).values[-1]
        if neuron_map.examples < LEAST:
            self.notes[f"{neuron_map.concept}"] = (
                f"two_stage: {neuron_map.examples} pictures of {neuron_map.concept} are too few for a threshold "
                f"({LEAST} are needed); ingest more examples, or set two_stage.threshold=fraction"
            )
            return torch.zeros_like(difference, dtype=torch.bool)
        parts = {name.removesuffix(suffix): mean for name, mean in means.items() if name.endswith(suffix)}
        return exceeding(parts, neuron_map.examples, self.level)


def build(
    *,
    pool: str = "max",
    threshold: str = "auto",
    fdr: float = 0.05,
    fraction: float = 0.05,
    absolute: float = 0.0,
    least: float = 0.0,
    output: str = "logit",
    draws: int = 2,
) -> TwoStage:
    """pool: max | mean over the image's positions. threshold: auto | fraction | absolute, and fdr, fraction, absolute,
    their levels. least: of stage 2. output: logit | log_probability | probability. draws: random regions a picture."""
    return TwoStage(pool, threshold, {"auto": fdr, "fraction": fraction, "absolute": absolute}, least, output, draws)
