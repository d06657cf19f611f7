"""Which colour a drawn thing has and on which ground it stands, told from its pixels alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ingest.datasets._scene import BODY, GROUND

APART = 60.0  # a pixel this far from the ground's colour (RGB, 0 to 255) is the thing's
NEAR = 45.0  # one this near to a shade of a colour counts for it
SHADES = (0.6, 1.0, 1.35)  # in which things show their colour


def ground(picture: Any) -> str:
    """The background whose colour is nearest to the median of the border. picture: PIL, or (height, width, 3) uint8."""
    return _nearest(_border(np.asarray(picture, np.float64)), GROUND)


def colour(picture: Any) -> str:
    """The colour that most of the thing's pixels are near to; the accents that things have of their own (black, white,
    wood, leaf) count as any other pixel."""
    pixels = np.asarray(picture, np.float64)
    thing = pixels[np.linalg.norm(pixels - _border(pixels), axis=-1) > APART]
    shades = np.array([np.minimum(255, factor * np.array(body)) for body in BODY.values() for factor in SHADES])
    distances = np.linalg.norm(thing[:, None] - shades, axis=-1)
    near = distances.argmin(1)[distances.min(1) < NEAR] // len(SHADES) if len(thing) else np.zeros(0, int)
    return list(BODY)[int(np.bincount(near, minlength=len(BODY)).argmax())]


def _border(pixels: np.ndarray) -> np.ndarray:
    edges = [pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]
    median: np.ndarray = np.median(np.concatenate(edges), axis=0)
    return median


def _nearest(pixel: np.ndarray, palette: dict[str, tuple[int, int, int]]) -> str:
    names: Sequence[str] = list(palette)
    return names[int(np.linalg.norm(np.array(list(palette.values()), float) - pixel, axis=-1).argmin())]
