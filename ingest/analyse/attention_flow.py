"""What the last position of the prompt takes from each kind of token: how information reaches the first answer token.

For layer l and role m, summed over the positions j of m in the prompt, with t its last position:

    attention_contribution = sum over heads h of A[l, h, t, j] * ||value vector of j in head h||
    saliency               = | sum over heads h of A[l, h, t, j] * dy / dA[l, h, t, j] |

with y the log-probability of the answer's first token. Each is also given as a share of its sum over all positions of
the prompt; every example counts equally.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from atlas.live.attention import last_saliency, value_norms, weights
from atlas.stats.intervals import Interval, of_sums
from ingest.attribution.role_sums import prompt_masks
from ingest.attribution.trace import Trace

NAMES = ("attention_contribution", "attention_share", "saliency", "saliency_share")

LIMITS = {name: (0.0, 1.0 if name.endswith("share") else math.inf) for name in NAMES}


class AttentionFlow:
    """Sums over examples of one source; needs passes traced with gradients and attention.

    sums: role -> (3, names, layers) float64, of the values, their squares and their cubes. counts: role -> examples
    that have the role.
    """

    def __init__(self, layers: Sequence[int]):
        self.layers = tuple(layers)
        self.sums: dict[str, np.ndarray] = {}
        self.counts: dict[str, int] = {}

    def update(self, trace: Trace) -> None:
        """Add a batch."""
        flows = [torch.stack(pair) for pair in self._into_last(trace)]  # (2, B, T) a layer
        for role, mask in prompt_masks(trace).items():
            has_role = mask.any(1)
            by_example = torch.stack([_both(flow, mask)[:, has_role] for flow in flows], 1).double().cpu().numpy()
            self.sums[role] = self.sums.get(role, 0) + np.stack([(by_example**power).sum(-1) for power in (1, 2, 3)])
            self.counts[role] = self.counts.get(role, 0) + int(has_role.sum())

    def _into_last(self, trace: Trace) -> list[tuple[Tensor, Tensor]]:
        """For each layer, the attention contribution and the saliency of every position, (B, T) each."""
        layout, capture = trace.live.layout, trace.capture
        rows = torch.arange(len(trace.items), device=trace.real.device)
        last = torch.tensor(trace.batch.starts, device=rows.device) - 1
        first = torch.tensor([item.prompt.answer[0] for item in trace.items], device=rows.device)
        assert capture.norm_out is not None, "the traced pass did not reach the final norm"
        y = trace.live.logits(capture.norm_out[rows, last]).log_softmax(-1)[rows, first]
        outputs = [capture.attention_out[layer] for layer in self.layers]
        flows = []
        for layer, slope in zip(self.layers, torch.autograd.grad(y.sum(), outputs), strict=True):
            attended = weights(layout, capture, layer, trace.real)[rows, :, last].float()  # (B, H, T)
            contribution = (attended * value_norms(layout, capture, layer)).sum(1)
            flows.append((contribution, last_saliency(layout, capture, layer, trace.real, last, slope)))
        return flows

    def means(self) -> dict[str, list[list[tuple[float, int, Interval]]]]:
        """role -> for each name and layer: the mean over the examples, their number, and the mean's interval."""
        return {
            role: [_of_layers(sums[:, index], self.counts[role], LIMITS[name]) for index, name in enumerate(NAMES)]
            for role, sums in self.sums.items()
        }


def _of_layers(sums: np.ndarray, count: int, limits: tuple[float, float]) -> list[tuple[float, int, Interval]]:
    """See `AttentionFlow.means`. sums: (3, layers), of the values, their squares and their cubes."""
    return [
        (float(total / count), count, of_sums(total, square, cube, count, limits))
        for total, square, cube in zip(*sums, strict=True)
    ]


def _both(flow: Tensor, mask: Tensor) -> Tensor:
    """(names, B) from (2, B, T): both quantities summed over the role's positions, and as shares of the row's sum."""
    of_role, total = (flow * mask).sum(-1), flow.sum(-1)
    share = of_role / torch.where(total > 0, total, 1)
    return torch.stack([of_role[0], share[0], of_role[1], share[1]])
