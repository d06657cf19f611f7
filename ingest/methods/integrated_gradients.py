"""Value times the gradient averaged along the path from zero to it, layer by layer.

GraI in NAM's list of baselines (Fang et al. 2024), after Sundararajan et al. 2017 and Dai et al. 2022:

    S[l, n] = sum over t of A[l, t, n] * 1/m sum over j of dy / dA[l, t, n] at s_j * A[l]

All neurons of a layer are scaled together at the chosen positions, so a layer's scores sum to the output minus the
output with the layer's neurons at zero, up to the error of m steps. The path of a layer restarts the model after it.
"""

from __future__ import annotations

from torch import Tensor

from atlas.errors import UsageError
from ingest.attribution.estimators import IMAGE_TARGET, TEXT_TARGET, PairMethod
from ingest.attribution.path_gradients import ENDPOINTS, PathGradients
from ingest.attribution.positions import POSITIONS, need_of, sources_with
from ingest.attribution.trace import OUTPUTS, Trace, one_of


class IntegratedGradients(PairMethod):
    """See the module and `ingest.attribution.path_gradients`."""

    targets = frozenset({TEXT_TARGET, IMAGE_TARGET})
    restarts = True

    def __init__(self, steps: int, endpoints: str, positions: str, output: str, tokens: int):
        super().__init__()
        if steps < 1 or tokens < 1:
            raise UsageError("steps and tokens must be at least 1")
        one_of("endpoints", endpoints, ENDPOINTS)
        one_of("positions", positions, POSITIONS)
        self.sources = sources_with(positions)
        self.needs = need_of(positions)
        self.paths = PathGradients(steps, endpoints, positions, one_of("output", output, OUTPUTS), tokens)

    def score(self, trace: Trace, layer: int) -> Tensor:
        trace.require_product("integrated_gradients")
        return self.paths.attribute(trace, layer)


def build(
    *,
    steps: int = 20,
    endpoints: str = "right",
    positions: str = "predicting",
    output: str = "log_probability",
    tokens: int = 8192,
) -> IntegratedGradients:
    """steps: m. endpoints: right | midpoint | both. positions: predicting | all | image | video | audio |
    input. output: log_probability | logit | probability. tokens: positions run in one batch."""
    return IntegratedGradients(steps, endpoints, positions, output, tokens)
