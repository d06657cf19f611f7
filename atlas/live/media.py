"""What a model can be shown besides text: pictures, sounds and clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from atlas.errors import UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE, VIDEO, AUDIO = KINDS = ("image", "video", "audio")

SHORTEST = 0.1
"""Seconds. In less a model may hear nothing: its encoder makes one token of 40 to 80 ms, and none of a remainder."""


@dataclass(frozen=True, slots=True)
class Sound:
    """A recording. samples: (samples,) float32 between -1 and 1. rate: samples per second."""

    samples: np.ndarray
    rate: int

    @property
    def finite(self) -> bool:
        """Whether all samples are numbers."""
        return bool(np.isfinite(self.samples).all())

    def at(self, rate: int) -> np.ndarray:
        """The samples at another rate, through a polyphase low-pass filter; recordings shorter than SHORTEST are padded
        with silence, as feature extractors do."""
        resampled: np.ndarray = self.samples
        if rate != self.rate:
            from scipy.signal import resample_poly

            shared = gcd(rate, self.rate)
            resampled = resample_poly(self.samples, rate // shared, self.rate // shared).astype(np.float32)
        return np.pad(resampled, (0, max(0, round(SHORTEST * rate) - len(resampled))))


@dataclass(frozen=True, slots=True)
class Clip:
    """A video as its frames, RGB pictures of one size."""

    frames: tuple[Image, ...]


Medium: TypeAlias = "Image | Sound | Clip"


def kind_of(medium: Medium) -> str:
    """ "image", "video" or "audio".

    Raises:
        UsageError: it is not a medium.
    """
    if isinstance(medium, Sound | Clip):
        return AUDIO if isinstance(medium, Sound) else VIDEO
    if not (hasattr(medium, "convert") and hasattr(medium, "mode")):  # Pillow is loaded by whoever has a picture
        raise UsageError(f"a {type(medium).__name__} is not a medium; give a PIL picture, a Sound or a Clip")
    return IMAGE


def kinds_of(media: Sequence[Medium]) -> tuple[str, ...]:
    """The kind of each medium, in order."""
    return tuple(map(kind_of, media))
