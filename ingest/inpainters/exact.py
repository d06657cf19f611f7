"""The dataset's own picture without the thing: exact, for a world that draws its pictures (scenes)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from atlas.errors import Unsupported

if TYPE_CHECKING:
    from PIL.Image import Image

    from ingest.data.examples import Dataset


class Exact:
    """Takes the region from the dataset's own picture without the thing."""

    cached = False  # drawing it again costs nothing

    def fill(self, picture: Image, region: np.ndarray, *, dataset: Dataset, media: str, seed: int) -> Image:
        from PIL import Image

        background = getattr(dataset, "background", None)
        if background is None:
            raise Unsupported(f"{dataset.name} does not know what is behind its things; use [[inpainter=classical]]")
        empty, shown = np.asarray(background(media)), np.asarray(picture)
        return Image.fromarray(np.where(region[..., None], empty, shown))


def build() -> Exact:
    """No options."""
    return Exact()
