"""Fills the region from its surroundings without a model: OpenCV's Telea or Navier-Stokes inpainting."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from atlas.errors import Unsupported, UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

    from ingest.data.examples import Dataset

ALGORITHMS = ("telea", "ns")


class Classical:
    """See the module. algorithm, radius, margin: as in `build`."""

    cached = True

    def __init__(self, algorithm: str, radius: float, margin: int):
        if algorithm not in ALGORITHMS:
            raise UsageError(f"no algorithm called '{algorithm}'; there are: {', '.join(ALGORITHMS)}")
        if radius <= 0 or margin < 0:
            raise UsageError("classical: radius must be above 0 and margin at least 0")
        self.algorithm, self.radius, self.margin = algorithm, radius, margin

    def fill(self, picture: Image, region: np.ndarray, *, dataset: Dataset, media: str, seed: int) -> Image:
        try:
            import cv2
        except ImportError as error:
            raise Unsupported("the classical inpainter needs OpenCV: pip install 'neuron-atlas[inpainting]'") from error
        from PIL import Image

        mask = region.astype(np.uint8)
        if self.margin:
            side = 2 * self.margin + 1
            mask = np.asarray(cv2.dilate(mask, np.ones((side, side), np.uint8)))
        method = cv2.INPAINT_TELEA if self.algorithm == "telea" else cv2.INPAINT_NS
        return Image.fromarray(np.asarray(cv2.inpaint(np.asarray(picture), mask, self.radius, method)))


def build(*, algorithm: str = "telea", radius: float = 3.0, margin: int = 2) -> Classical:
    """algorithm: telea | ns. radius: of the surroundings used to fill a pixel, in pixels. margin: pixels by which the
    region grows, so that a thing's soft edge is removed too."""
    return Classical(algorithm, radius, margin)
