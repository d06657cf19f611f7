"""COCO's outlines as pixels."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from atlas.errors import IntegrityError


def mask_of(instance: Mapping[str, Any], height: int, width: int) -> np.ndarray:
    """(height, width) bool of one instance: polygons, run lengths as numbers or as text, or the box.

    Raises:
        IntegrityError: the outline is of no such form, or of another size than the picture.
    """
    from pycocotools import mask as runs

    outline = instance.get("segmentation")
    try:
        if isinstance(outline, Mapping):
            if list(outline["size"]) != [height, width]:
                raise ValueError(f"its size is {outline['size']}, the picture's {[height, width]}")
            coded = outline if isinstance(outline["counts"], str | bytes) else runs.frPyObjects(outline, height, width)
        else:
            if not isinstance(outline, list | None):
                raise TypeError("it is neither polygons nor run lengths")
            # A polygon needs three corners; with fewer it has no inside.
            polygons = [polygon for polygon in outline or [] if len(polygon) >= 6] or [_corners(instance["bbox"])]
            coded = runs.merge(runs.frPyObjects(polygons, height, width))
        with warnings.catch_warnings():
            # pycocotools 2.0 makes its arrays the way numpy 1 did.
            warnings.simplefilter("ignore", DeprecationWarning)
            found: np.ndarray = runs.decode(coded).astype(bool)
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        raise IntegrityError(f"annotation {instance['id']}: its segmentation cannot be read: {error}") from error
    return found


def _corners(box: Sequence[float]) -> list[float]:
    x, y, width, height = box
    return [x, y, x + width, y, x + width, y + height, x, y + height]
