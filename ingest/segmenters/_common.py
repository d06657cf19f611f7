"""What a segmenter is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

    from ingest.data.examples import Concept


class Segmenter(Protocol):
    """Tells where a picture shows a concept, also in pictures that nobody has labelled.

    identity: 64 hex digits of the weights that it looks with; "" where its options say all.
    """

    @property
    def identity(self) -> str: ...

    def require(self, concepts: Sequence[Concept]) -> None:
        """Raise UsageError where it knows nothing of one of these."""
        ...

    def find(self, picture: Image, concept: Concept) -> np.ndarray | None:
        """(height, width) bool: the concept's pixels; None where it is not seen."""
        ...


class ConceptFree:
    """A segmenter that looks for no concept in particular."""

    identity = ""

    def require(self, concepts: Sequence[Concept]) -> None:
        pass
