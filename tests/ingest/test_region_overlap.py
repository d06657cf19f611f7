"""Maps of many neurons at once, compared with regions: against the heatmap of one neuron, point by point."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from atlas.live.grid.crops import WHOLE
from atlas.live.grid.heatmap import iou, percentile_mask, picture_maps
from atlas.live.grid.token_grids import Grid
from ingest.attribution.region_overlap import covered, layout_of, overlaps, positions_of


@pytest.mark.parametrize(("side", "mean", "most"), [(64, 0.01, 0.05), (32, 0.02, 0.1)])
def test_fewer_points_give_nearly_what_all_pixels_give(side: int, mean: float, most: float) -> None:
    """A 24 x 24 grid, values that follow the region more and less, pictures of 240 x 320."""
    cells, draw, differences = 24, np.random.default_rng(0), []
    grid = Grid(0, tuple(tuple(range(r * cells, (r + 1) * cells)) for r in range(cells)))
    y, x = np.mgrid[:240, :320] / np.array([240, 320])[:, None, None]
    for _ in range(10):
        (top, left), (tall, wide) = draw.uniform(0.3, 0.7, 2), draw.uniform(0.1, 0.25, 2)
        region = ((y - top) / tall) ** 2 + ((x - left) / wide) ** 2 < 1
        share = covered(region, cells).numpy()
        values = np.stack([share + noise * draw.normal(size=share.shape) for noise in (0.1, 0.3, 1.0)], 1)
        layout = layout_of([grid], side, torch.device("cpu"))
        found = overlaps(torch.from_numpy(values).float(), layout, covered(region, side)[:, None], 95.0)[:, 0]
        maps = picture_maps([grid], values.T, region.shape)
        full = [iou(percentile_mask(heat), region, np.ones_like(region)) for heat in maps]
        differences += np.abs(found.numpy() - full).tolist()
    assert np.mean(differences) < mean and max(differences) < most


def test_a_region_smaller_than_a_point_counts_with_its_own_size() -> None:
    region = np.zeros((640, 480), bool)
    region[101:104, 333:337] = True
    shares = covered(region, 16)
    assert int((shares > 0).sum()) == 1 and float(shares.sum()) / 256 == pytest.approx(region.mean(), rel=1e-4)
    whole = covered(np.ones((7, 5), bool), 16)
    assert torch.allclose(whole, torch.ones(256), atol=1e-6)


def test_masks_cut_ties_as_a_heatmap_does() -> None:
    """Values that are equal over much of the picture, and all of it, far from zero."""
    grid, draw = Grid(0, tuple(tuple(range(r * 6, r * 6 + 6)) for r in range(6))), np.random.default_rng(0)
    values = draw.integers(0, 3, (36, 40)).astype(np.float32)
    values[:, 1], values[:, 2], values[:, 3] = 0.3, np.eye(36)[14], 1000 + draw.random(36)
    values[:, 4:10] = draw.random((36, 6)) > 0.9
    values[:, 10:20] = draw.normal(size=10)  # of these and of zeros only rounding would differ from point to point
    region = draw.random((24, 24)) > 0.8
    layout = layout_of([grid], 24, torch.device("cpu"))
    found = overlaps(torch.from_numpy(values), layout, covered(region, 24)[:, None], 95.0)[:, 0]
    maps = picture_maps([grid], values.T, (24, 24))
    expected = [iou(percentile_mask(heat), region, np.ones_like(region)) for heat in maps]
    assert np.allclose(found, expected, atol=1e-6) and not found[10:20].any()


def test_grids_that_lie_over_each_other_are_laid_as_a_heatmap_lays_them() -> None:
    """Any-resolution models: a coarse grid of the whole, a fine one of a part, the positions in any order."""
    order = np.random.default_rng(0).permutation(4 + 24)
    coarse = Grid(0, tuple(tuple(row) for row in order[:4].reshape(2, 2).tolist()), WHOLE)
    fine = Grid(0, tuple(tuple(row) for row in order[4:].reshape(4, 6).tolist()), (0.1, -0.2, 0.9, 1.2))
    values = np.random.default_rng(1).normal(size=(28, 50)).astype(np.float32)
    region = np.random.default_rng(2).random((32, 32)) > 0.7
    layout = layout_of([coarse, fine], 32, torch.device("cpu"))
    ordered = torch.from_numpy(values)[positions_of([coarse, fine])]
    found = overlaps(ordered, layout, covered(region, 32)[layout.seen][:, None], 90.0)[:, 0]
    maps = picture_maps([coarse, fine], values.T, (32, 32))
    expected = [iou(percentile_mask(heat, 90), region, np.ones_like(region)) for heat in maps]
    assert np.allclose(found, expected, atol=1e-6)
