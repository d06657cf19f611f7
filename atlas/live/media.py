"""What a model can be shown besides text: pictures, sounds and clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE, VIDEO, AUDIO = KINDS = ("image", "video", "audio")


@dataclass(frozen=True, slots=True)
class Sound:
    """samples: (samples,) float32 between -1 and 1. rate: of them a second."""

    samples: np.ndarray
    rate: int

    def at(self, rate: int) -> np.ndarray:
        """The samples at another rate, through a polyphase low-pass filter."""
        if rate == self.rate:
            return self.samples
        from scipy.signal import resample_poly

        shared = gcd(rate, self.rate)
        found: np.ndarray = resample_poly(self.samples, rate // shared, self.rate // shared)
        return found.astype(np.float32)


@dataclass(frozen=True, slots=True)
class Clip:
    """A video as its frames, RGB pictures of one size."""

    frames: tuple[Image, ...]


Medium: TypeAlias = "Image | Sound | Clip"


def kind_of(medium: Medium) -> str:
    """ "image", "video" or "audio"."""
    return AUDIO if isinstance(medium, Sound) else VIDEO if isinstance(medium, Clip) else IMAGE


def kinds_of(media: Sequence[Medium]) -> tuple[str, ...]:
    return tuple(map(kind_of, media))
