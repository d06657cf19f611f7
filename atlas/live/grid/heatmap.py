"""Values of image tokens as maps over the picture, and how well such a map finds a region.

Each grid's values are interpolated bilinearly between the centres of its cells (half-pixel centres: the centre of cell
i of n lies at (i + 1/2) / n of the grid's box), and held constant from the outermost centres to the box's edge. Where
several grids see a part of the picture (any-resolution models), the one with the smallest cells there is shown. What
lies outside the picture, where it was padded, is left out; what no token sees (cropped) is NaN.

The mask is that of network dissection (Bau et al. 2017; Schwettmann et al. 2023): the part of the map above its 95th
percentile. The pointing game is that of Zhang et al. 2016.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from atlas.live.grid.token_grids import Grid

Floats = NDArray[np.floating]
Mask = NDArray[np.bool_]

PERCENTILE = 95.0

EQUAL = 1e-6
"""Share of a map's range within which two values count as equal: interpolation rounds."""


def picture_maps(grids: Iterable[Grid], values: Floats, size: tuple[int, int]) -> NDArray[np.float32]:
    """Values laid on a picture; NaN where no token sees it.

    grids: of one picture, or of one frame of a video. values: (..., position), one at each position of the prompt.
    size: (height, width) of the map, in pixels.

    Returns:
        (..., height, width) float32.
    """
    height, width = size
    maps = np.full((*values.shape[:-1], height, width), np.nan, np.float32)
    for grid in sorted(grids, key=_cell_area, reverse=True):
        top, left, bottom, right = grid.box
        cells = np.asarray(values, np.float32)[..., np.array(grid.positions)]  # (..., rows, columns)
        rows, columns = cells.shape[-2:]
        down, across = _pixels(top, bottom, rows, height), _pixels(left, right, columns, width)
        laid = _between(_between(cells, down, -2), across, -1)
        maps[..., down.first : down.first + len(down.cell), across.first : across.first + len(across.cell)] = laid
    return maps


def sees(grids: Iterable[Grid], region: Mask) -> bool:
    """Whether the centre of any pixel of a region, (height, width), lies in a grid."""
    height, width = region.shape
    for grid in grids:
        top, left, bottom, right = grid.box
        down, across = _pixels(top, bottom, 1, height), _pixels(left, right, 1, width)
        if region[down.first : down.first + len(down.cell), across.first : across.first + len(across.cell)].any():
            return True
    return False


def _cell_area(grid: Grid) -> float:
    """The share of the picture that one cell covers."""
    top, left, bottom, right = grid.box
    return (bottom - top) * (right - left) / (len(grid.positions) * len(grid.positions[0]))


@dataclass(frozen=True, slots=True)
class _Pixels:
    """The pixels of one axis that lie in a grid's box.

    first: the number of the first of them. cell: for each, the cell whose centre is before it. share: how far it is
    from there to the next cell's centre, 0 to 1.
    """

    first: int
    cell: NDArray[np.intp]
    share: NDArray[np.float32]


def _pixels(start: float, end: float, cells: int, pixels: int) -> _Pixels:
    centres = (np.arange(pixels) + 0.5) / pixels
    [inside] = np.nonzero((centres >= start) & (centres <= end))
    at = np.clip((centres[inside] - start) / (end - start) * cells - 0.5, 0, cells - 1)
    cell = np.minimum(at.astype(np.intp), max(cells - 2, 0))
    return _Pixels(int(inside[0]) if len(inside) else 0, cell, (at - cell).astype(np.float32))


def _between(cells: Floats, at: _Pixels, axis: int) -> Floats:
    """Values along an axis, interpolated; exactly a cell's value between two cells with that value."""
    before = cells.take(at.cell, axis)
    if cells.shape[axis] == 1:
        return before
    share = at.share[:, None] if axis == -2 else at.share
    return before + share * (cells.take(at.cell + 1, axis) - before)


def percentile_mask(heat: Floats, percentile: float = PERCENTILE) -> Mask:
    """The part of a map above a percentile of its values: where NaN, False.

    Where many pixels have the largest value and the percentile is that value, those pixels; of a constant map, nothing.
    heat: (height, width).
    """
    seen = heat[~np.isnan(heat)]
    if not seen.size:
        return np.zeros(heat.shape, np.bool_)
    least, most = float(seen.min()), float(seen.max())
    threshold, equal = float(np.percentile(seen, percentile)), EQUAL * (most - least)
    with np.errstate(invalid="ignore"):
        if threshold < most - equal:
            above: Mask = heat > threshold + equal
            return above
        return np.asarray(heat >= most - equal) if most > least else np.zeros(heat.shape, np.bool_)


def iou(mask: Mask, region: Mask, seen: Mask) -> float:
    """Intersection over union of a map's mask and a region of the picture, within what tokens see.

    mask, region, seen: (height, width). NaN where the tokens see nothing of the region.
    """
    visible = region & seen
    if not visible.any():
        return float("nan")
    return float((mask & visible).sum() / ((mask & seen) | visible).sum())


def pointing(heat: Floats, region: Mask) -> float:
    """Whether the largest value lies in a region: 1 or 0; of several pixels with that value, the share that does.

    NaN where the tokens see nothing of the region.
    """
    seen = ~np.isnan(heat)
    if not (region & seen).any():
        return float("nan")
    most, least = float(np.nanmax(heat)), float(np.nanmin(heat))
    with np.errstate(invalid="ignore"):
        largest = heat >= most - EQUAL * (most - least)
    return float(region[largest].mean())


def resampled(region: Mask, size: tuple[int, int]) -> Mask:
    """A region at another size (height, width): each pixel as the one at its centre."""
    rows, columns = (
        np.minimum(((np.arange(new) + 0.5) / new * old).astype(np.intp), old - 1)
        for new, old in zip(size, region.shape, strict=True)
    )
    return region[np.ix_(rows, columns)]


def strip(positions: Sequence[int], values: Floats) -> Floats:
    """Values of tokens without a place in a picture (of a Q-Former, or pooled), or of words: one row, (..., tokens)."""
    return values[..., np.array(positions, np.intp)]
