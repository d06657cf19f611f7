"""COCO's outlines as pixels, in every form that exporters write them.

    [[x, y, x, y, ...], ...]        polygons (COCO)
    [x, y, x, y, ...]               one polygon, flat
    [[x, y], [x, y], ...]           one polygon, as points
    [[[x, y], ...], ...]            polygons, as points
    {"size": ..., "counts": ...}    run lengths: numbers, text, bytes, or bytes as Python prints them
    [{"size": ..., "counts": ...}]  several of these
    [], [[]], null, or absent       the box is used instead

Any other form is refused, and the error names it.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from atlas.errors import IntegrityError
from ingest.datasets._files import warn_left_out


def mask_of(instance: Mapping[str, Any], height: int, width: int) -> np.ndarray:
    """(height, width) bool of one instance: its outline, or its box where it has none.

    Raises:
        IntegrityError: the outline has an unknown form, or another size than the picture.
    """
    try:
        return _mask(instance, height, width)
    except (KeyError, TypeError, ValueError, IndexError, OverflowError, RecursionError) as error:
        raise IntegrityError(f"annotation {instance['id']}: its segmentation cannot be read: {error}") from error


def _mask(instance: Mapping[str, Any], height: int, width: int) -> np.ndarray:
    from pycocotools import mask as rle

    outline = instance.get("segmentation")
    parts = [outline] if isinstance(outline, Mapping) else outline
    if isinstance(parts, list) and parts and all(isinstance(part, Mapping) for part in parts):
        encoded = rle.merge([_runs(part, height, width) for part in parts])
    else:
        # A polygon needs three corners; with fewer it has no inside.
        polygons = [polygon for polygon in _polygons(outline) if len(polygon) >= 6] or [_corners(instance.get("bbox"))]
        # pycocotools walks along every edge: one to a far point would take hours.
        limit = 10 * (height + width)
        if not all(-limit <= v <= limit for polygon in polygons for v in polygon):
            raise ValueError("a corner is far from the picture")
        encoded = rle.merge(rle.frPyObjects(polygons, height, width))
    with warnings.catch_warnings():
        # pycocotools 2.0 makes its arrays in a way that numpy 2 deprecates.
        warnings.simplefilter("ignore", DeprecationWarning)
        pixels: np.ndarray = rle.decode(encoded).astype(bool)
    return pixels


def require_pixels(root: Path, images: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> None:
    """Refuse boxes and corners in fractions of the picture; warn of boxes used as outlines that lie outside it.

    Raises:
        IntegrityError: all numbers are between 0 and 1.
    """
    coordinates = [n for row in rows for n in _first_numbers(row)]
    if coordinates and all(0 <= n <= 1 for n in coordinates) and any(n % 1 for n in coordinates):
        raise IntegrityError(
            f"{root}: all boxes and corners are between 0 and 1, fractions of the picture; COCO's are in pixels, so "
            "multiply them by the picture's width and height"
        )
    sizes = {image["id"]: (image["width"], image["height"]) for image in images}
    boxes = [row for row in rows if row["image_id"] in sizes and not row.get("segmentation") and _is_box(row)]
    outside = [
        f"annotation {row['id']}, {row['bbox']} of {' x '.join(map(str, sizes[row['image_id']]))} pixels"
        for row in boxes
        if not _is_within(row["bbox"], *sizes[row["image_id"]])
    ]
    form = "COCO's are [x, y, width, height] in pixels"
    subject = f"{root}: boxes that reach outside the picture or are empty ({form})"
    warn_left_out(subject, outside, len(boxes), "clipped to the picture")


def _first_numbers(row: Mapping[str, Any]) -> list[float]:
    """The numbers of a row's box, or else of its first polygon; none where these have another form."""
    if _is_box(row):
        return list(row["bbox"])
    numbers: Any = row.get("segmentation")
    while isinstance(numbers, list) and numbers and isinstance(numbers[0], list):
        numbers = numbers[0]
    return numbers if isinstance(numbers, list) and all(map(_is_number, numbers)) else []


def _is_within(box: Sequence[float], width: int, height: int) -> bool:
    """Whether a box has an area and lies in the picture, give or take what annotators draw over its edges."""
    x, y, box_width, box_height = box
    x_margin, y_margin = 1 + width / 20, 1 + height / 20
    if box_width <= 0 or box_height <= 0 or x < -x_margin or y < -y_margin:
        return False
    within: bool = x + box_width <= width + x_margin and y + box_height <= height + y_margin
    return within


def _runs(outline: Mapping[str, Any], height: int, width: int) -> Any:
    """Run lengths, checked, in pycocotools' own form."""
    from pycocotools import mask as rle

    missing = {"size", "counts"} - set(outline)
    if missing:
        raise ValueError(f"run lengths need size and counts; it has {', '.join(map(str, outline)) or 'neither'}")
    if list(outline["size"]) != [height, width]:
        raise ValueError(f"its size is {outline['size']}, the picture's {[height, width]}")
    counts = outline["counts"]
    if isinstance(counts, str) and counts.startswith(("b'", 'b"')):  # str(bytes) in somebody's script
        counts = ast.literal_eval(counts)
    if isinstance(counts, bytes):
        counts = counts.decode("ascii")
    # pycocotools leaves pixels that no run covers as they were in memory.
    lengths = _lengths(counts) if isinstance(counts, str) else counts
    if sum(lengths) != height * width or not all(isinstance(n, int) for n in lengths):
        raise ValueError("its runs are not as long as the picture")
    encoded = {"size": [height, width], "counts": counts}
    return encoded if isinstance(counts, str) else rle.frPyObjects(encoded, height, width)


def _polygons(outline: Any) -> list[list[float]]:
    """Each polygon as x, y, x, y, ...; none where there is no outline."""
    if outline is None:
        return []
    if not isinstance(outline, list):
        raise TypeError(f"it is {_named(outline)}, not polygons or run lengths")
    if not outline or all(_is_number(v) for v in outline) or all(_is_point(v) for v in outline):
        return [_flat(outline)]
    return [_flat(polygon) for polygon in outline]


def _flat(polygon: Any) -> list[float]:
    """The corners of one polygon, written as numbers or as points."""
    if not isinstance(polygon, list):
        raise TypeError(f"one of its polygons is {_named(polygon)}")
    numbers = [v for point in polygon for v in point] if all(map(_is_point, polygon)) else polygon
    for value in numbers:
        if not _is_number(value):
            raise TypeError(f"one of its corners is {_named(value)}")
    if len(numbers) % 2:
        raise ValueError(f"one of its polygons has {len(numbers)} numbers, an odd count")
    return [float(value) for value in numbers]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_point(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_number, value))


def _named(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"an object with {', '.join(map(str, value))[:60] or 'nothing in it'}"
    return "a list" if isinstance(value, list) else f"{value!r:.60}"


def _lengths(text: str) -> list[int]:
    """Run lengths from COCO's text: five bits a character, each length from the third on stored as a difference."""
    lengths: list[int] = []
    position = 0
    while position < len(text):
        value, shift, continues = 0, 0, True
        while continues:
            bits = ord(text[position]) - 48
            if not 0 <= bits < 64 or shift > 60:
                raise ValueError(f"'{text[position]}' is not a run length")
            value |= (bits & 31) << shift
            position, shift, continues = position + 1, shift + 5, bool(bits & 32)
        if bits & 16:
            value -= 1 << shift
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        if lengths[-1] < 0:
            raise ValueError("a run has a negative length")
    return lengths


def _is_box(row: Mapping[str, Any]) -> bool:
    box = row.get("bbox")
    return isinstance(box, list) and len(box) == 4 and all(map(_is_number, box))


def _corners(box: Any) -> list[float]:
    if not _is_box({"bbox": box}):
        raise ValueError("it has no corners, and no bbox of four numbers to use instead")
    x, y, width, height = box
    return [x, y, x + width, y, x + width, y + height, x, y + height]
