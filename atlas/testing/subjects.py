"""A tiny model of one family, its inputs, and an edit of it: shared by the checks of families."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from atlas.edits.edit import Change, Intervention
from atlas.live.encode import Prompt
from atlas.live.hooks import tracing
from atlas.live.layout import columns_of
from atlas.live.media import Clip, Sound
from atlas.live.model import LiveModel
from atlas.neurons import Neuron

CLOSE: dict[str, Any] = {"atol": 2e-4, "rtol": 2e-3}


def pictures(count: int, height: int = 10, width: int = 12, seed: int = 0) -> list[Image.Image]:
    """RGB pictures of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    return [Image.fromarray(array) for array in pixels]


def sound(seconds: float, seed: int = 0, rate: int = 16000) -> Sound:
    """A recording of noise."""
    noise = np.random.default_rng(seed).normal(0, 0.3, int(seconds * rate)).astype(np.float32)
    return Sound(noise.clip(-1, 1), rate)


def medium(live: LiveModel, kind: str, seed: int = 0, *, other: bool = False) -> list[Any]:
    """One medium of a kind; `other`: of another size."""
    if kind == "audio":
        return [sound(0.6 if other else 1.0, seed)]
    if kind == "video":
        return [Clip(tuple(pictures(3 if other else 4, 16, 24 if other else 16, seed)))]
    return pictures(1, *((24, 9) if other else (10, 12)), seed)


class NotApplicable(Exception):
    """The family has no such feature."""


class Subject:
    """A family's model, ready to be checked. kind: the medium that its prompts have, "text" for none."""

    def __init__(self, name: str, kind: str, live: LiveModel):
        self.name, self.kind, self.live = name, kind, live

    def prompts(self, *, answers: bool = True, kind: str | None = None) -> list[Prompt]:
        """Two prompts of different length, with media of different size where the family has any."""
        kind = kind or self.kind
        texts, answer_texts = ("what is this?", "describe the red dog :"), ("a dog", "two cat barks .")
        encoded = []
        for i in range(2):
            media = [] if kind == "text" else medium(self.live, kind, i, other=i == 1)
            encoded.append(self.live.encoder.prompt(texts[i], media, answer_texts[i] if answers else None))
        return encoded

    def logits(self, prompts: list[Prompt]) -> list[Tensor]:
        """(positions, vocabulary) of each prompt's own positions, from one batch."""
        batch = self.live.batch(prompts)
        with torch.no_grad(), tracing(self.live.layout) as capture:
            self.live.forward(batch)
        assert capture.norm_out is not None
        all_logits = self.live.logits(capture.norm_out)
        return [row[: len(p.ids) + len(p.answer)] for row, p in zip(all_logits, prompts, strict=True)]


EDITED = Intervention(
    (
        Change(Neuron("language", 0, 3), gain=0.0),
        Change(Neuron("language", 1, 60), gain=-1.5),
        Change(Neuron("language", 1, 7), gain=3.0),
    ),
    "product",
)


@contextmanager
def changed_weights(live: LiveModel, intervention: Intervention) -> Iterator[None]:
    """The same gains written into the weights while the block lasts."""
    weights = [columns_of(down) for down in live.layout.down]
    originals = [w.detach().clone() for w in weights]
    with torch.no_grad():
        for change in intervention.changes:
            weights[change.neuron.layer][:, change.neuron.index] *= change.gain
    try:
        yield
    finally:
        with torch.no_grad():
            for w, original in zip(weights, originals, strict=True):
                w.copy_(original)
