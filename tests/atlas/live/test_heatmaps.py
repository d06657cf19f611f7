"""Maps over a picture: against a loop over pixels, and of values that are 1 exactly at a known region's tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import families
import numpy as np
import pytest
from PIL import Image

from atlas.live.grid.heatmap import iou, percentile_mask, picture_maps, pointing, resampled, strip
from atlas.live.grid.token_grids import Grid, grids
from atlas.live.media import Clip
from atlas.live.model import LiveModel

pytestmark = pytest.mark.filterwarnings("ignore")
GRIDDED = [
    name
    for name, (kind, _) in families.FAMILIES.items()
    if kind == "image" and name not in ("InstructBLIP", "BLIP-2 (Llama)", "BLIP-2 (OPT)", "GILL")
]
SIZE = (60, 90)


def by_hand(found: Sequence[Grid], values: Any, size: tuple[int, int]) -> Any:
    """Pixel by pixel: the grid with the smallest cells that has the pixel's centre in its box, and its four cells."""
    heat = np.full(size, np.nan)
    for y in range(size[0]):
        for x in range(size[1]):
            at = ((y + 0.5) / size[0], (x + 0.5) / size[1])
            seeing = [g for g in found if all(g.box[i] <= at[i] <= g.box[i + 2] for i in range(2))]
            if not seeing:
                continue
            areas = [cell(g, 0) * cell(g, 1) for g in seeing]
            grid = [g for g, area in zip(seeing, areas, strict=True) if area == min(areas)][-1]
            shape = (len(grid.positions), len(grid.positions[0]))
            total = 0.0
            for r in range(shape[0]):
                for c in range(shape[1]):
                    weight = 1.0
                    for i, number in enumerate((r, c)):
                        place = (at[i] - grid.box[i]) / cell(grid, i) - 0.5
                        weight *= max(0.0, 1 - abs(min(max(place, 0.0), shape[i] - 1.0) - number))
                    total += weight * values[grid.positions[r][c]]
            heat[y, x] = total
    return heat


def cell(grid: Grid, axis: int) -> float:
    count = len(grid.positions) if axis == 0 else len(grid.positions[0])
    return (grid.box[axis + 2] - grid.box[axis]) / count


def rows(first: int, count: int, columns: int) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(range(first + r * columns, first + (r + 1) * columns)) for r in range(count))


LAYOUTS = {
    "one": [Grid(0, rows(0, 4, 4))],
    "cropped": [Grid(0, rows(0, 3, 5), (0.0, 0.2, 1.0, 0.8))],
    "padded": [Grid(0, rows(0, 6, 6), (-0.25, 0.0, 1.25, 1.0))],
    "one token": [Grid(0, rows(0, 1, 1), (0.1, 0.0, 1.0, 1.0))],
    "one row": [Grid(0, rows(0, 1, 7))],
    "coarse and fine": [Grid(0, rows(0, 2, 2)), Grid(0, rows(4, 5, 8), (0.1, 0.0, 0.9, 1.0))],
    "crops": [
        Grid(0, rows(0, 3, 3)),
        *(Grid(0, rows(9 * i + 9, 3, 3), (0.0, i / 3, 1.0, (i + 1) / 3)) for i in range(3)),
    ],
}


@pytest.mark.parametrize("name", list(LAYOUTS))
def test_a_map_is_as_a_loop_over_pixels_makes_it(name: str) -> None:
    values = np.random.default_rng(1).normal(size=(2, 64)).astype(np.float32)
    for size in ((17, 23), (6, 5)):
        maps = picture_maps(LAYOUTS[name], values, size)
        assert maps.shape == (2, *size)
        for heat, of_one in zip(maps, values, strict=True):
            assert np.allclose(heat, by_hand(LAYOUTS[name], of_one, size), atol=1e-5, equal_nan=True)


def test_what_is_outside_the_picture_is_dropped_and_what_no_token_sees_is_nan() -> None:
    cropped = picture_maps(LAYOUTS["cropped"], np.ones(15), (10, 10))
    assert np.isnan(cropped[:, :2]).all() and np.isnan(cropped[:, 8:]).all() and (cropped[:, 2:8] == 1).all()
    outside = np.zeros(36)
    outside[:6] = 1  # the uppermost row of cells, which is above the picture: -0.25 to 0
    padded = picture_maps(LAYOUTS["padded"], outside, (40, 40))
    assert padded.shape == (40, 40) and not np.isnan(padded).any()
    assert padded[0].max() < 0.5 and not padded[20:].any()


def planted(found: Sequence[Grid], inside: Any, length: int) -> Any:
    """1 at the tokens whose cell's centre is in a region of the picture, 0 at all others."""
    values = np.zeros(length, np.float32)
    for grid in found:
        for r, row in enumerate(grid.positions):
            for c, position in enumerate(row):
                y = grid.box[0] + (r + 0.5) * cell(grid, 0)
                x = grid.box[1] + (c + 0.5) * cell(grid, 1)
                values[position] = inside(y, x)
    return values


def finest(found: Sequence[Grid], axis: int) -> list[float]:
    """Where cells of the finest grids meet, within the picture."""
    fine = min(cell(g, axis) for g in found)
    edges = {
        round(g.box[axis] + i * cell(g, axis), 9)
        for g in found
        if cell(g, axis) < fine * 1.01
        for i in range(round((g.box[axis + 2] - g.box[axis]) / cell(g, axis)) + 1)
    }
    return sorted(edge for edge in edges if 0.05 < edge < 0.95)


def sharp(found: Sequence[Grid]) -> Any:
    """(height, width) bool: what the finest grids see.

    LLaVA-NeXT's leave out rows at the picture's edge. There only the coarse grid sees it, and a region of fine cells
    cuts through its cells.
    """
    fine = min(cell(g, 0) * cell(g, 1) for g in found)
    seen = np.zeros(SIZE, bool)
    y, x = ((np.arange(n) + 0.5) / n for n in SIZE)
    for grid in found:
        if cell(grid, 0) * cell(grid, 1) < fine * 1.01:
            top, left, bottom, right = grid.box
            seen |= ((y >= top) & (y <= bottom))[:, None] & ((x >= left) & (x <= right))
    return seen


@pytest.mark.parametrize("name", GRIDDED)
def test_a_neuron_that_is_1_exactly_under_a_region_is_found_there(name: str) -> None:
    """Halves of the picture whose edge is one of the grid's: its map has an IoU of 1 with its half, up to a pixel, and
    none with the other; the largest value is inside."""
    live = LiveModel(*families.build(name), name=name)
    picture = Image.fromarray(np.random.default_rng(2).integers(0, 255, (*SIZE, 3), dtype=np.uint8))
    prompt = live.encoder.prompt("what is this?", [picture], "a dog")
    found = grids(live.encoder, prompt, live.model.config)
    length, halves = len(prompt.ids) + len(prompt.answer), 0
    for axis in range(2):
        for edge in finest(found, axis):
            centres = (np.arange(SIZE[axis]) + 0.5) / SIZE[axis]
            before = np.broadcast_to((centres < edge)[:, None] if axis == 0 else centres < edge, SIZE)
            values = planted(found, lambda y, x, axis=axis, edge=edge: (y, x)[axis] < edge, length)
            heat = np.where(sharp(found), picture_maps(found, values, SIZE), np.nan)
            seen = ~np.isnan(heat)
            if not (seen & before).any() or not (seen & ~before).any():
                continue
            share = 100 * float((before & seen).sum() / seen.sum())
            mask = percentile_mask(heat, 100 - share)
            assert iou(mask, before, seen) > 1 - 2 / (edge * SIZE[axis]), (axis, edge)
            assert iou(mask, ~before, seen) < 2 / (edge * SIZE[axis])
            assert (pointing(heat, before), pointing(heat, ~before)) == (1, 0)
            halves += 1
    assert halves


def test_a_region_of_cells_in_the_middle_is_found() -> None:
    """Of a 12 x 12 grid, 4 x 4 cells: the map is 1/2 on the region's edges, and less only at its corners."""
    grid = Grid(0, rows(0, 12, 12))
    values = planted([grid], lambda y, x: 4 / 12 < y < 8 / 12 and 2 / 12 < x < 6 / 12, 144)
    region = np.zeros((120, 120), bool)
    region[40:80, 20:60] = True
    heat = picture_maps([grid], values, region.shape)
    seen = np.ones_like(region)
    assert iou(percentile_mask(heat, 100 - 100 * region.mean()), region, seen) > 0.93
    assert pointing(heat, region) == 1
    shifted = np.roll(region, 10, 1)  # by a cell
    assert iou(percentile_mask(heat, 100 - 100 * region.mean()), shifted, seen) < 0.65


def test_a_clips_steps_have_maps_of_their_own() -> None:
    live = LiveModel(*families.build("Qwen2-VL"), name="Qwen2-VL")
    frames = tuple(Image.new("RGB", (24, 16), (n * 40, 0, 0)) for n in range(4))
    prompt = live.encoder.prompt("what is this?", [Clip(frames)])
    found = grids(live.encoder, prompt, live.model.config)
    values = np.zeros(len(prompt.ids))
    values[[p for row in found[1].positions for p in row]] = 1
    first, second = (picture_maps([grid], values, (16, 24)) for grid in found)
    assert not first.any() and (second == 1).all()


def test_the_mask_is_what_is_above_the_percentile() -> None:
    heat = np.arange(100.0).reshape(10, 10)
    mask = percentile_mask(heat)
    assert mask.sum() == 5 and mask[9, 5:].all()
    assert percentile_mask(heat, 50).sum() == 50
    heat[0] = np.nan
    assert percentile_mask(heat, 50).sum() == 45 and not percentile_mask(heat, 50)[0].any()
    sparse = np.zeros((10, 10))
    sparse[3, 4] = 1  # the percentile is 0, and most of the picture has it
    assert percentile_mask(sparse).sum() == 1
    many = np.zeros((10, 10))
    many[:4] = 1  # the percentile is the largest value
    assert (percentile_mask(many) == (many == 1)).all()
    assert not percentile_mask(np.full((4, 4), 0.3)).any() and not percentile_mask(np.full((4, 4), np.nan)).any()


def test_iou_and_pointing_count_what_tokens_see() -> None:
    region = np.zeros((10, 10), bool)
    region[:, :4] = True
    seen = np.ones((10, 10), bool)
    mask = np.zeros((10, 10), bool)
    mask[:, 2:6] = True
    assert iou(mask, region, seen) == pytest.approx(2 / 6)
    seen[:, :2] = False
    assert iou(mask, region, seen) == pytest.approx(2 / 4), "half of the region is not seen"
    seen[:, :4] = False
    assert np.isnan(iou(mask, region, seen))
    heat = np.where(mask, 1.0, 0.0)
    assert pointing(heat, region) == pytest.approx(0.5), "two of four columns have the largest value"
    heat[5, 5] = 2
    assert pointing(heat, region) == 0 and pointing(heat, mask) == 1
    assert np.isnan(pointing(np.where(region, np.nan, heat), region))


def test_a_region_at_another_size_and_tokens_without_a_place() -> None:
    region = np.zeros((4, 6), bool)
    region[1:3, 2:] = True
    large = resampled(region, (8, 12))
    assert (large == region.repeat(2, 0).repeat(2, 1)).all() and (resampled(large, (4, 6)) == region).all()
    assert strip([3, 1], np.array([[0, 1, 2, 3]])).tolist() == [[3, 1]]
