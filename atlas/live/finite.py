"""Numbers that are NaN or infinite, and make everything computed from them so."""

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
    """Watches the logits of an answer while it is generated, as one of its processors; it does not change them."""

    def __init__(self) -> None:
        self._broken: Tensor | None = None

    def __call__(self, _: Tensor, logits: Tensor) -> Tensor:
        broken = ~logits.amax(-1).isfinite()  # -inf rules a token out on purpose
        self._broken = broken if self._broken is None else self._broken | broken
        return logits

    def check(self, names: Sequence[str], dtype: str) -> None:
        """Raise NotFinite where the logits of an answer were not finite. names: of the answers' prompts."""
        broken = [] if self._broken is None else self._broken.tolist()
        broken_names = [name for name, bad in zip(names, broken, strict=False) if bad]
        if broken_names:
            raise not_finite("the logits", broken_names, dtype)


def not_finite(what: str, sources: Sequence[str], dtype: str) -> NotFinite:
    """The error for values that are not finite: what they are, of which examples or prompts, and what to try."""
    shown = ", ".join(sources[:3]) + (f" and {len(sources) - 3:,} more" if sources[3:] else "")
    remedies = {
        "float16": "the largest float16 number is 65,504: use [[dtype=bfloat16]] or float32",
        "bfloat16": "use [[dtype=float32]]",
    }.get(dtype, "check the input, the weights, and what an edit multiplies or adds")
    return NotFinite(f"NaN or infinite in {dtype}: {what} of {shown}; {remedies}")
