"""Models that say what a test tells them to, whatever they are asked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image


def picture(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (10, 12, 3), np.uint8))


@contextmanager
def saying(head: Any, tokens: list[int]) -> Iterator[None]:
    """The unembedding says these tokens one after another, and the last one from there on."""
    left = list(tokens)

    def say(_module: Any, _arguments: Any, logits: torch.Tensor) -> torch.Tensor:
        said = torch.zeros_like(logits)
        said[..., left.pop(0) if len(left) > 1 else left[0]] = 100.0
        return said

    handle = head.register_forward_hook(say)
    try:
        yield
    finally:
        handle.remove()
