"""Value times the derivative of the concept's log-probability by it: a first-order estimate of ablation.

GraT in NAM's list of baselines (Fang et al. 2024); `schwettmann` is the same at the image's positions:

    S[l, n] = sum over t of A[l, t, n] * dy / dA[l, t, n]

with y the log-probability of the concept's words (weighted mean over their tokens). The sum runs over all
positions, over the image's, or over those where the words are predicted.
"""

from __future__ import annotations

from ingest.methods.gradient import Gradient


def build(*, positions: str = "all", output: str = "log_probability") -> Gradient:
    """positions: all | predicting | image | video | audio | input. output: log_probability | logit | probability of the
    word's tokens."""
    return Gradient(positions, output, times_activation=True)
