"""Counterfactual twins: the same picture without the thing, and without another region of the same shape.

Sato & Takagi (2025, section 3.3) inpaint the object's region. Inpainting the same shape elsewhere shows how large a
difference is by chance: it is the null of the automatic threshold.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import platformdirs

import ingest.inpainters
from atlas import registry
from atlas.store.atomic import write_atomically
from ingest.data.examples import BadMedia, Dataset
from ingest.data.media import open_image

if TYPE_CHECKING:
    from PIL.Image import Image


TRIES = 64


class Inpainter(Protocol):
    """Fills a region of a picture. cached: whether its pictures are worth keeping for later runs."""

    cached: bool

    def fill(self, picture: Image, region: np.ndarray, *, dataset: Dataset, media: str, seed: int) -> Image:
        """The RGB picture, of the same size, with the region, (height, width) bool, filled from its surroundings."""
        ...


def default_inpainter(dataset: Dataset) -> str:
    """`exact` for a dataset that knows the background behind its things, else `classical`."""
    return "exact" if hasattr(dataset, "background") else "classical"


def moved_region(region: np.ndarray, seed: int) -> np.ndarray:
    """The same shape elsewhere in the picture: (height, width) bool.

    Of `TRIES` random places, the one that shares the fewest pixels with the region: a large one always overlaps.
    """
    rows, columns = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
    shape = region[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    generator = np.random.default_rng(seed)
    candidates = []
    for _ in range(TRIES):
        top = int(generator.integers(region.shape[0] - shape.shape[0] + 1))
        left = int(generator.integers(region.shape[1] - shape.shape[1] + 1))
        moved = np.zeros_like(region)
        moved[top : top + shape.shape[0], left : left + shape.shape[1]] = shape
        candidates.append(moved)
    return min(candidates, key=lambda m: int((m & region).sum()))


class Counterfactuals:
    """The counterfactual pictures of one dataset by one inpainter, cached on disk by the content they are made from.

    A diffusion pipeline is identified by its name, folder or revision: one whose weights changed needs another name.
    """

    def __init__(self, dataset: Dataset, name: str, options: Mapping[str, Any]):
        self.dataset, self.name, self.options = dataset, name, dict(options)
        self.inpainter: Inpainter = registry.load(ingest.inpainters, name).build(**options)
        self.folder = Path(platformdirs.user_cache_dir("neuron-atlas")) / "twins"

    def shown(self, media: str, concept: str) -> np.ndarray | None:
        """(height, width) bool: the region of the concept, or None where the picture does not show it."""
        region = self.dataset.mask(media, concept)
        return region if region.any() else None

    def without(self, media: str, picture: Image, region: np.ndarray, draw: int = 0) -> Image:
        """The picture without the region; with `draw` above 0, without the same shape at a random place instead."""
        content = json.dumps([self.name, self.options, draw, list(region.shape)], sort_keys=True).encode()
        key = hashlib.sha256(content + np.packbits(region).tobytes() + picture.tobytes()).hexdigest()
        seed = int(key[:15], 16)
        file = self.folder / key[:2] / f"{key}.png"
        if self.inpainter.cached and file.is_file():
            with suppress(BadMedia):  # a damaged one is made again
                stored = open_image(file)
                if stored.size == picture.size:
                    return stored
        region = moved_region(region, seed) if draw else region
        filled = self.inpainter.fill(picture, region, dataset=self.dataset, media=media, seed=seed)
        if self.inpainter.cached:
            with suppress(OSError):  # a full disk costs time, not the run
                file.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(file, lambda temporary: filled.save(temporary, format="PNG"))
        return filled
