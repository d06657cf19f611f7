"""What a segmenter is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

    from ingest.examples import Concept


class Segmenter(Protocol):
    """Tells where a picture shows a concept, also in pictures that nobody has labelled."""

    def find(self, picture: Image, concept: Concept) -> np.ndarray | None:
        """(height, width) bool: the concept's pixels; None where it is not seen."""
        ...
