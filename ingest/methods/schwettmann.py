"""Value times the derivative of the concept's output by it, at the image's positions only.

Schwettmann et al. 2023, "Multimodal Neurons in Pretrained Text-Only Transformers":

    g[l, n] = sum over the image's positions t of A[l, t, n] * dy / dA[l, t, n]

It scores pictures only. The paper takes the logit for y; output=log_probability shares the backward pass of the
other gradient methods of a job.
"""

from __future__ import annotations

from ingest.attribution.estimators import TEXT_TARGET
from ingest.methods.gradient import Gradient


class Schwettmann(Gradient):
    """See the module. output: one of OUTPUTS."""

    targets = frozenset({TEXT_TARGET})

    def __init__(self, output: str):
        super().__init__("image", output, times_activation=True)


def build(*, output: str = "logit") -> Schwettmann:
    """output: logit | log_probability | probability of the word's tokens."""
    return Schwettmann(output)
