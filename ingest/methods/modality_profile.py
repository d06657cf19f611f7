"""What share of a neuron's activity falls on each kind of token, how often it fires there, and what that makes it.

After the classes of Xu et al. 2025, "Deciphering Functions of Neurons in Vision-Language Models" (visual, text and
multi-modal neurons), with a rule of this project's own. Over the prompt's positions of role r:

    share[r] = mean |A| at r, over the sum of mean |A| over the roles      rate[r] = share of positions with A > 0
    mean[r] = mean A

The share compares means and not sums, so that a picture's many positions do not make every neuron visual. Labels: a
neuron is `visual` where image and video tokens have at least `threshold` of the share of text, image and video tokens,
`text` where text tokens have, else `multimodal`; `audio` likewise. Special tokens have no part in it: they are few, and
some draw very large values. A neuron that is zero everywhere has no label, and no share.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from atlas.errors import UsageError
from ingest.attribution.estimators import TEXT_TARGET, NeuronMap, RunningMeans
from ingest.attribution.labels import LabelledNeurons, chosen
from ingest.attribution.reductions import MEAN
from ingest.attribution.role_sums import DISJOINT, prompt_masks, sums_of
from ingest.attribution.trace import Trace

KINDS = {"text": ("text",), "visual": ("image", "video"), "audio": ("audio",)}
MULTIMODAL = "multimodal"


class ModalityProfile:
    """See the module. threshold: the share from which a neuron belongs to one kind of token."""

    needs: frozenset[str] = frozenset()
    sources: frozenset[str] | None = None
    targets: frozenset[str] = frozenset({TEXT_TARGET})

    def __init__(self, threshold: float):
        if not 0.5 < threshold <= 1:
            raise UsageError(f"the threshold is {threshold}; it must be above 0.5, at most 1, to single out one kind")
        self.threshold = threshold
        self.sums = {name: RunningMeans() for name in ("mass", "rate", "mean")}

    def update(self, trace: Trace) -> None:
        for means in self.sums.values():
            means.layers = trace.layers
        for role in prompt_masks(trace):
            role_sums = sums_of(trace)[role]
            for name, summed in (("mass", role_sums.mass), ("rate", role_sums.positive), ("mean", role_sums.total)):
                self.sums[name].add(role, summed.sum(1), int(role_sums.count.sum()))

    def state(self) -> Mapping[str, Tensor]:
        return {f"{name}|{k}": v for name, means in self.sums.items() for k, v in means.state().items()}

    def merge(self, state: Mapping[str, Tensor]) -> None:
        for name, means in self.sums.items():
            beginning = f"{name}|"
            means.merge({k.removeprefix(beginning): v for k, v in state.items() if k.startswith(beginning)})

    def shares(self) -> dict[str, Tensor]:
        """role -> (L, N) float64; NaN where a neuron is zero everywhere."""
        mass = {role: mean for role, (mean, _) in self.sums["mass"].means().items()}
        total = torch.stack(list(mass.values())).sum(0)
        return {role: torch.where(total > 0, m / total, torch.nan) for role, m in mass.items()}

    def result(self) -> Iterator[NeuronMap]:
        if not self.sums["mass"].sums:
            return
        parts = {"share": self.shares()}
        parts |= {name: {r: m for r, (m, _) in self.sums[name].means().items()} for name in ("rate", "mean")}
        for role in (r for r in DISJOINT if r in parts["share"]):
            positions, layers = self.sums["mass"].counts[role], self.sums["mass"].layers
            for part, maps in parts.items():
                yield NeuronMap(None, role, TEXT_TARGET, MEAN, maps[role].float(), layers, positions, part)

    def labels(self) -> Iterator[LabelledNeurons]:
        """visual, text, audio or multimodal; the score is the largest kind's share."""
        mass = {role: mean for role, (mean, _) in self.sums["mass"].means().items()}
        kinds = {kind: [mass[r] for r in roles if r in mass] for kind, roles in KINDS.items()}
        summed = {kind: torch.stack(masses).sum(0) for kind, masses in kinds.items() if masses}
        if len(summed) < 2:
            return  # a single kind cannot be distinguished from others
        total = torch.stack(list(summed.values())).sum(0)
        share = {kind: m / total for kind, m in summed.items()}
        largest = torch.stack(list(share.values())).amax(0).numpy()
        rule = f"modality_profile: at least {self.threshold:g} of mean |value| over {', '.join(summed)} tokens"
        active, layers = (total > 0).numpy(), self.sums["mass"].layers
        clear = active & (largest >= self.threshold)
        for kind, values in share.items():
            yield chosen(kind, rule, layers, clear & (values.numpy() >= self.threshold), largest)
        yield chosen(MULTIMODAL, rule, layers, active & ~clear, largest)


def build(*, threshold: float = 0.75) -> ModalityProfile:
    """threshold: the share of its activity from which a neuron belongs to one kind of token alone."""
    return ModalityProfile(threshold)
