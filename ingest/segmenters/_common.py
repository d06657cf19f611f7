"""The interface of segmenters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

    from ingest.data.examples import Concept


class Segmenter(Protocol):
    """Finds where a picture shows a concept, also in unlabelled pictures.

    identity: 64 hex digits of its weights; "" where its options determine everything.
    """

    @property
    def identity(self) -> str: ...

    def require(self, concepts: Sequence[Concept]) -> None:
        """Raise UsageError where it does not know one of these."""
        ...

    def find(self, picture: Image, concept: Concept) -> np.ndarray | None:
        """(height, width) bool: the concept's pixels; None where it is not found."""
        ...


class ConceptFree:
    """A segmenter whose region does not depend on the concept."""

    identity = ""

    def require(self, concepts: Sequence[Concept]) -> None:
        pass
