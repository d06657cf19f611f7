"""What stands out from the ground, for pictures of one thing on a plain ground such as those of the world of scenes.

It does not know concepts: the region is the largest connected part whose colour differs from the picture's border,
whatever it shows; what the picture shows must be recognised by other means (a classifier).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from atlas.errors import UsageError
from atlas.live.pixels import rgb
from ingest.segmenters._common import ConceptFree

if TYPE_CHECKING:
    from PIL.Image import Image

    from ingest.data.examples import Concept


class ColourSegmenter(ConceptFree):
    """See the module. distance, least: as in `build`."""

    def __init__(self, distance: float, least: float):
        if distance <= 0 or not 0 <= least < 1:
            raise UsageError("colour: distance must be above 0, and least from 0 to below 1")
        self.distance, self.least = distance, least

    def find(self, picture: Image, concept: Concept) -> np.ndarray | None:
        pixels = np.asarray(rgb(picture), dtype=np.float32)
        border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        ground = np.median(border, axis=0)
        distances = np.linalg.norm(pixels - ground, axis=-1)
        # On a textured ground, most of the border is this far from its own median.
        unlike = distances > max(
            self.distance, 1.5 * float(np.percentile(np.linalg.norm(border - ground, axis=-1), 80))
        )
        parts, count = ndimage.label(ndimage.binary_closing(unlike, iterations=1) | unlike)
        if not count:
            return None
        sizes = np.bincount(parts.ravel())
        sizes[0] = 0
        region: np.ndarray = ndimage.binary_fill_holes(parts == int(sizes.argmax()))
        return region if region.mean() > self.least else None


def build(*, distance: float = 48.0, least: float = 0.01) -> ColourSegmenter:
    """distance: how far from the ground's colour, in RGB from 0 to 255, a pixel of a thing is. least: the smallest
    fraction of the picture that counts as a thing."""
    return ColourSegmenter(distance, least)
