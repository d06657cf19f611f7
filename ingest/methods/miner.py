"""Importance of every neuron for every modality of the prompt's tokens: five metrics and their weighted sum.

Huang et al. 2024, MINER. For the P positions of a modality m in one example's prompt, X = (P, N) the values of a layer,
and B = (P, P) the attention among them (mean over heads, softmax(QK^T / sqrt(d_head)) over the whole prompt without a
causal mask):

    prob    mean over t of 1[X_t > 0]        attn_k  sum of the rows of softmax_column(B)^T X
    mean    mean over t of X_t               attn_q  sum of the rows of softmax_row(B) X
    max     max over t of X_t

The last two are vector-matrix products: attn_k = w^T X with w_i = sum over j of softmax_column(B)_ij, and attn_q =
u^T X with u_j = sum over i of softmax_row(B)_ij. The softmax of weights, which lie in [0, 1], is nearly flat, so both
are close to P times the mean. Each metric is then scaled to [0, 1] over the neurons of its layer and example
(normalise=published) and averaged over the examples that have the modality.

Modalities are the token roles (text, special, image, video, audio) and the unions special_text and prompt. A map's
source is the role; `miner.prob` to `miner.attn_q` are the metrics and `miner` their weighted sum. The paper reads the
gate tap. A layer whose neurons all have the same value gets 0 throughout (the published code divides by zero there,
and the NaN stays in its sums).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from ingest.attribution.estimators import TEXT_TARGET, NeuronMap
from ingest.attribution.miner_weights import METRICS, parse_weights
from ingest.attribution.reductions import MEAN
from ingest.attribution.role_sums import ROWS, RoleSums, peaks, prompt_masks, sums_of, with_unions
from ingest.attribution.trace import ATTENTION, Trace, one_of

NORMALISATIONS = ("published", "none")


class Miner:
    """See the module. attention: whether to compute attn_k and attn_q. normalise, weights: as in `build`."""

    sources: frozenset[str] | None = None
    targets: frozenset[str] = frozenset({TEXT_TARGET})

    def __init__(self, attention: bool, normalise: str, weights: str):
        self.needs = frozenset({ATTENTION}) if attention else frozenset()
        self.metrics = METRICS if attention else METRICS[:3]
        self.normalise = one_of("normalise", normalise, NORMALISATIONS)
        self.weights = parse_weights(weights, attention=attention)[: len(self.metrics)]
        self.layers: tuple[int, ...] = ()
        self.sums: dict[str, Tensor] = {}  # role -> (metrics, L, N) float64
        self.counts: dict[str, int] = {}

    def update(self, trace: Trace) -> None:
        self.layers = trace.layers
        masks = prompt_masks(trace)
        all_masks = with_unions(masks)
        largest = peaks([trace.capture.values[layer].detach() for layer in trace.layers], masks)
        attended = self._attended(trace, all_masks) if self.needs else {}
        for role, sums in sums_of(trace).items():
            metrics = torch.stack([*_simple(sums, largest[role]), *attended.get(role, ())])
            scaled = min_max(metrics) if self.normalise == "published" else metrics  # (metrics, L, B, N)
            present = all_masks[role].any(1)
            self._add(role, scaled[:, :, present].sum(2).cpu().double(), int(present.sum()))

    def _attended(self, trace: Trace, all_masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """role -> (2, L, B, N): attn_k and attn_q."""
        masks, by_layer = torch.stack(list(all_masks.values()), 1).float(), []
        for layer in trace.layers:
            weights = attention_weights(trace.attention(layer, causal=False, among=all_masks["prompt"]), masks)
            by_layer.append(weights.flatten(1, 2) @ trace.values(layer))  # (B, R * 2, N)
        by_role = torch.stack(by_layer).movedim(2, 0).view(len(all_masks), 2, len(by_layer), *by_layer[0].shape[::2])
        return dict(zip(all_masks, by_role, strict=True))

    def _add(self, role: str, sums: Tensor, count: int) -> None:
        self.sums[role] = self.sums[role] + sums if role in self.sums else sums
        self.counts[role] = self.counts.get(role, 0) + count

    def state(self) -> Mapping[str, Tensor]:
        sums = {f"sum|{role}": value for role, value in self.sums.items()}
        counts = {f"count|{role}": torch.tensor(count) for role, count in self.counts.items()}
        return {"layers": torch.tensor(self.layers), **sums, **counts}

    def merge(self, state: Mapping[str, Tensor]) -> None:
        self.layers = self.layers or tuple(state["layers"].tolist())
        for name, value in state.items():
            kind, _, role = name.partition("|")
            if kind == "sum":
                self._add(role, value, int(state[f"count|{role}"]))

    def result(self) -> Iterator[NeuronMap]:
        weights = torch.tensor(self.weights, dtype=torch.float64)
        for role in (r for r in ROWS if r in self.sums):
            mean, examples = self.sums[role] / self.counts[role], self.counts[role]
            parts = {"": torch.einsum("m,mln->ln", weights, mean), **dict(zip(self.metrics, mean, strict=True))}
            for part, scores in parts.items():
                yield NeuronMap(None, role, TEXT_TARGET, MEAN, scores.float(), self.layers, examples, part)


def _simple(sums: RoleSums, peak: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(L, B, N) each: prob, mean, max; meaningless where the example lacks the role."""
    count = sums.count.clamp(min=1)[:, None]
    return sums.positive / count, sums.total / count, peak.nan_to_num(neginf=0.0)


def min_max(values: Tensor) -> Tensor:
    """(..., N) scaled to [0, 1] over the neurons; 0 where they are all equal."""
    low, high = values.amin(-1, keepdim=True), values.amax(-1, keepdim=True)
    return (values - low) / torch.where(high > low, high - low, torch.ones_like(high))


def attention_weights(attended: Tensor, masks: Tensor) -> Tensor:
    """(B, R, 2, T): the weights w (attn_k) and u (attn_q) of every position, 0 outside the role.

    attended: (B, T, T), query by key. masks: (B, R, T), 1 at the role's positions. Both softmaxes run over the role's
    own positions; no (P, P) by (P, N) product is formed, nor a copy of the attention for each role.
    """
    e = attended.exp()  # of weights in [0, 1]: nothing overflows
    by_column, by_row = masks @ e, masks @ e.mT  # (B, R, T): the softmaxes' denominators
    w = masks * ((masks / by_column.clamp(min=1e-30)) @ e.mT)
    u = masks * ((masks / by_row.clamp(min=1e-30)) @ e)
    return torch.stack([w, u], 2)


def build(*, attention: bool = False, normalise: str = "published", weights: str = "") -> Miner:
    """attention: also attn_k and attn_q, which cost one more call of each layer's attention. normalise: published, to
    [0, 1] over each layer and example, or none. weights: five numbers for prob,mean,max,attn_k,attn_q, or published,
    mean_max, attn, uniform or a metric; published by default, without attention mean_max."""
    return Miner(attention, normalise, weights)
