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
            counts = outline["counts"]
            # pycocotools leaves pixels that no run covers as they were in memory.
            lengths = _lengths(counts) if isinstance(counts, str) else counts
            if sum(lengths) != height * width or not all(isinstance(n, int) for n in lengths):
                raise ValueError("its runs are not as long as the picture")
            coded = outline if isinstance(counts, str) else runs.frPyObjects(outline, height, width)
        else:
            if not isinstance(outline, list | None):
                raise TypeError("it is neither polygons nor run lengths")
            # A polygon needs three corners; with fewer it has no inside.
            polygons = [polygon for polygon in outline or [] if len(polygon) >= 6] or [_corners(instance["bbox"])]
            # It walks along every edge: one to a far point would take hours.
            far = 10 * (height + width)
            if not all(-far <= float(v) <= far for polygon in polygons for v in polygon):
                raise ValueError("a corner is far from the picture")
            coded = runs.merge(runs.frPyObjects(polygons, height, width))
        with warnings.catch_warnings():
            # pycocotools 2.0 makes its arrays the way numpy 1 did.
            warnings.simplefilter("ignore", DeprecationWarning)
            found: np.ndarray = runs.decode(coded).astype(bool)
    except (KeyError, TypeError, ValueError, IndexError, OverflowError, RecursionError) as error:
        raise IntegrityError(f"annotation {instance['id']}: its segmentation cannot be read: {error}") from error
    return found


def _lengths(text: str) -> list[int]:
    """The run lengths that COCO writes as text: five bits a character, from the third on as differences."""
    found: list[int] = []
    at = 0
    while at < len(text):
        value, shift, more = 0, 0, True
        while more:
            bits = ord(text[at]) - 48
            if not 0 <= bits < 64 or shift > 60:
                raise ValueError(f"'{text[at]}' is no run length")
            value |= (bits & 31) << shift
            at, shift, more = at + 1, shift + 5, bool(bits & 32)
        if bits & 16:
            value -= 1 << shift
        found.append(value + (found[-2] if len(found) > 2 else 0))
        if found[-1] < 0:
            raise ValueError("a run has a negative length")
    return found


def _corners(box: Sequence[float]) -> list[float]:
    x, y, width, height = box
    return [x, y, x + width, y, x + width, y + height, x, y + height]
