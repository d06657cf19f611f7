"""The whole picture, whatever it shows: region attribution without a region."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ingest.segmenters._common import ConceptFree

if TYPE_CHECKING:
    from PIL.Image import Image

    from ingest.data.examples import Concept


class WholePicture(ConceptFree):
    """Every pixel is in the region."""

    def find(self, picture: Image, concept: Concept) -> np.ndarray | None:
        return np.ones((picture.height, picture.width), dtype=bool)


def build() -> WholePicture:
    """No options."""
    return WholePicture()
