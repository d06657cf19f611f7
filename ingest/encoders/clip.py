"""A CLIP (Radford et al. 2021): texts and pictures in one space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from atlas.errors import Unsupported
from atlas.live.pixels import rgb
from ingest.encoders._common import PairedEncoder, in_batches, load_pair

if TYPE_CHECKING:
    from PIL.Image import Image


class Clip(PairedEncoder):
    """See the module."""

    modalities = frozenset({"text", "image"})

    def images(self, images: Sequence[Image]) -> np.ndarray:
        """(pictures, dimension) float32 of length 1."""
        return in_batches([rgb(image) for image in images], self.batch_size, self._images)

    def _images(self, images: Sequence[Image]) -> Any:
        pixels = self.media(list(images), return_tensors="pt").pixel_values.to(self.model.device)
        return self.model.visual_projection(self.model.vision_model(pixels).pooler_output)

    def sounds(self, sounds: Sequence[tuple[np.ndarray, int]]) -> np.ndarray:
        raise Unsupported("a CLIP encodes texts and pictures, not sound; use clap:")


def build(model: str = "", *, revision: str = "", prefix: str = "", batch_size: int = 32, device: str = "cpu") -> Clip:
    """prefix: what is put before every text, such as "a photo of "."""
    parts = load_pair("clip", "CLIP", ("CLIPModel", "AutoTokenizer", "AutoImageProcessor"), model, revision)
    return Clip(*parts, prefix=prefix, batch_size=batch_size, device=device)
