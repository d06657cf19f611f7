"""Numbers that are NaN or infinite: of these everything that is computed from them is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from atlas.errors import Unsupported


class NotFinite(Unsupported):
    """A model computed NaN or infinity."""


def broken_rows(values: Tensor, real: Tensor) -> Tensor:
    """(B,) bool, on the device: rows of (B, T, ...) values with NaN or infinity at a position that is `real`, (B, T).

    It is read once and not copied; finite values whose sum over a position is beyond float32 count too.
    """
    by_position = values.detach().flatten(2).sum(-1, dtype=torch.float32)
    return (~by_position.isfinite() & real).any(1)


class FiniteLogits:
    """Watches the logits of an answer that is being generated, as one of its processors: they stay what they are."""

    def __init__(self) -> None:
        self._broken: Tensor | None = None

    def __call__(self, _: Tensor, logits: Tensor) -> Tensor:
        broken = ~logits.amax(-1).isfinite()  # of a token that is ruled out, -inf is meant
        self._broken = broken if self._broken is None else self._broken | broken
        return logits

    def check(self, names: Sequence[str], dtype: str) -> None:
        """Raise NotFinite where the logits of an answer were not; names: of the answers' prompts."""
        broken = [] if self._broken is None else self._broken.tolist()
        whose = [name for name, bad in zip(names, broken, strict=False) if bad]
        if whose:
            raise refusal("the logits", whose, dtype)


def refusal(what: str, whose: Sequence[str], dtype: str) -> NotFinite:
    """The error: what is not finite, of which examples or prompts, and what to try."""
    shown = ", ".join(whose[:3]) + (f" and {len(whose) - 3:,} more" if whose[3:] else "")
    tries = {
        "float16": "float16 ends at 65,504: use --dtype bfloat16 or float32",
        "bfloat16": "use --dtype float32",
    }.get(dtype, "look at the input, the weights, and at what an edit multiplies or adds")
    return NotFinite(f"NaN or infinite in {dtype}: {what}, of {shown}; {tries}")
