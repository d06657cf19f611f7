"""How well the maps of many neurons find a region of a picture: `atlas.live.grid.heatmap`, for all neurons at once.

A map is linear in the values of the picture's tokens, so the maps of a layer are one matrix product. Every picture is
squeezed into a square of `side` x `side` points. At such a point the map is exactly that of `picture_maps`, half-pixel
centres and all; of the region each point has the share of its square that the region covers, so that a small region is
never lost. Where the points are the picture's own pixels, the result is `heatmap.iou` of `heatmap.percentile_mask`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from atlas.live.grid.crops import Box
from atlas.live.grid.heatmap import EQUAL, Mask, picture_maps
from atlas.live.grid.token_grids import Grid

CELLS, FAR_CELLS = 2**20, 2**26
"""How many points of maps are in memory at a time: on the CPU those that fit in its cache, and on a GPU."""

LAYOUTS = 8
"""How many layouts of tokens are kept: pictures of one size have the same."""

Shape = tuple[int, int, Box]
"""A grid's rows, columns and box."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How the tokens of a picture are laid on it.

    cells: those of all cells of its grids, in their order, that are seen anywhere. seen: (side * side,) bool on the
    CPU, the points that a token sees. weights: (cells, points), what each cell adds to the map at the points seen.
    """

    cells: Tensor
    seen: Tensor
    weights: Tensor


def layout_of(grids: Sequence[Grid], side: int, device: torch.device) -> Layout:
    """The layout of one picture's grids."""
    shapes = tuple((len(grid.positions), len(grid.positions[0]), grid.box) for grid in grids)
    return _layout(shapes, side, device)


@lru_cache(LAYOUTS)
def _layout(shapes: tuple[Shape, ...], side: int, device: torch.device) -> Layout:
    numbered, count = list[Grid](), 0
    for rows, columns, box in shapes:
        cells = np.arange(count, count + rows * columns).reshape(rows, columns)
        numbered.append(Grid(0, tuple(map(tuple, cells.tolist())), box))
        count += rows * columns
    maps = picture_maps(numbered, np.eye(count, dtype=np.float32), (side, side)).reshape(count, side * side)
    seen = ~np.isnan(maps[0])
    weights = maps[:, seen]
    used = np.flatnonzero(weights.any(1))  # a coarse grid lies below a fine one
    on_device = [torch.from_numpy(array).to(device) for array in (used, weights[used])]
    return Layout(on_device[0], torch.from_numpy(seen), on_device[1])


def positions_of(grids: Sequence[Grid]) -> list[int]:
    """The prompt's positions of all cells of the grids, in their order."""
    return [position for grid in grids for row in grid.positions for position in row]


def covered(region: Mask, side: int) -> Tensor:
    """(side * side,) float32: the share of each point's square that a region, (height, width), covers."""
    down, across = (_shares(length, side) for length in region.shape)
    return (down @ torch.from_numpy(region.astype(np.float32)) @ across.T).flatten()


@lru_cache(LAYOUTS)
def _shares(length: int, side: int) -> Tensor:
    """(side, length): the share of each of `side` equal parts that each of `length` equal pixels makes up."""
    edges = torch.arange(side + 1, dtype=torch.float64) * length / side
    pixels = torch.arange(length, dtype=torch.float64)
    overlap = torch.minimum(edges[1:, None], pixels + 1) - torch.maximum(edges[:-1, None], pixels)
    return (overlap.clamp(min=0) * side / length).float()


def overlaps(values: Tensor, layout: Layout, regions: Tensor, percentile: float) -> Tensor:
    """(neurons, regions): the IoU of every neuron's mask, the part of its map above a percentile, with each region.

    values: (all cells, neurons) of one picture. regions: (points that are seen, regions), the share of each point; each
    with a sum above 0.
    """
    values = values[layout.cells]
    scores = regions.new_zeros(values.shape[1], regions.shape[1])
    varying = (values != values[:1]).any(0).nonzero()[:, 0]  # of a constant map no part is above the rest
    values = values[:, varying].float()
    values = (values - values.mean(0)).T  # the weights of a point sum to 1: no mask changes, and less is rounded
    sizes, found = regions.sum(0), [regions.new_zeros(0, regions.shape[1])]
    for masks in _masks(values, layout.weights, percentile):
        shared = masks @ regions
        found.append(shared / (masks.sum(1, keepdim=True) + sizes - shared))
    return scores.index_copy_(0, varying, torch.cat(found))


def _masks(values: Tensor, weights: Tensor, percentile: float) -> Iterator[Tensor]:
    """(some neurons, points) of 0 and 1, neurons in their order: see `atlas.live.grid.heatmap.percentile_mask`."""
    points = weights.shape[1]
    rank = percentile / 100 * (points - 1)  # as numpy's percentile: linear between the values of ranks below and above
    below, share = math.floor(rank), rank - math.floor(rank)
    step = max(1, (FAR_CELLS if values.device.type == "cuda" else CELLS) // points)
    for first in range(0, len(values), step):
        chunk = values[first : first + step]
        maps = chunk @ weights
        largest = maps.topk(points - below).values  # from the largest on
        most, least = largest[:, :1], maps.amin(1, keepdim=True)
        threshold = torch.lerp(largest[:, -1:], largest[:, -2:-1] if points - below > 1 else most, share)
        equal = EQUAL * (most - least)
        ordinary = threshold < most - equal
        above = torch.where(ordinary, maps > threshold + equal, (maps >= most - equal) & (most > least))
        yield above.to(maps.dtype)
