"""A gallery of 25 pictures with heatmaps on tiny-llava, from the stored exemplars to the file, beside drawing the same
pictures without them; a map by interpolation of rows and columns beside a loop over its pixels."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from _timing import interleaved, report

from atlas import Atlas
from atlas.figures._style import panels, save, styled
from atlas.live.grid.heatmap import picture_maps
from atlas.live.grid.token_grids import Grid
from ingest.job import Execution, make_job
from ingest.run.ingest import ingest

PANELS, CELLS, SIDE = 25, 16, 224


def by_pixel(cells: Any) -> Any:
    """The same map, one pixel after another."""
    heat = np.zeros((SIDE, SIDE))
    for y in range(SIDE):
        for x in range(SIDE):
            down, across = (min(max((i + 0.5) * CELLS / SIDE - 0.5, 0), CELLS - 1) for i in (y, x))
            r, c = min(int(down), CELLS - 2), min(int(across), CELLS - 2)
            top = cells[r, c] * (1 - across + c) + cells[r, c + 1] * (across - c)
            bottom = cells[r + 1, c] * (1 - across + c) + cells[r + 1, c + 1] * (across - c)
            heat[y, x] = top * (1 - down + r) + bottom * (down - r)
    return heat


def maps() -> None:
    cells = np.random.default_rng(0).normal(size=(CELLS, CELLS)).astype(np.float32)
    grid = Grid(0, tuple(tuple(range(r * CELLS, (r + 1) * CELLS)) for r in range(CELLS)))
    assert np.allclose(by_pixel(cells), picture_maps([grid], cells.ravel(), (SIDE, SIDE)), atol=1e-5)
    sides = {"loop": lambda: by_pixel(cells), "ours": lambda: picture_maps([grid], cells.ravel(), (SIDE, SIDE))}
    seconds = interleaved(sides, 5)
    report("loop over pixels / map", seconds["loop"] / seconds["ours"], ">= 50", f"{1000 * seconds['ours']:.2g} ms")


def gallery(folder: Path) -> None:
    atlas = Atlas.open(folder / "an.atlas", create=True)
    job: dict[str, Any] = {"concepts": ("dog", "cat", "car"), "sources": ("image",), "per_concept": 60}
    ingest(atlas.path, make_job({"methods": {"random": {}}, "exemplars": PANELS, **job}), Execution())
    excited = f"""SELECT layer, neuron FROM exemplars GROUP BY ALL HAVING count(*) = {PANELS}
        ORDER BY count_if(role = 'image') DESC, sum(value) DESC"""
    rows = atlas.sql(f"{excited} LIMIT 1").to_pylist()
    address = f"{rows[0]['layer']}/{rows[0]['neuron']}"
    shown = atlas.gallery(address).panels
    pictures = [panel.shown.pixels for panel in shown]
    assert len(pictures) == PANELS and sum(bool(panel.values.any()) for panel in shown) > PANELS // 2

    def drawn() -> None:
        figure: Any = atlas.gallery(address).plot().figure
        save(figure, folder / "gallery.png")
        matplotlib.pyplot.close(figure)

    def bare() -> None:
        with styled():
            axes = panels(PANELS, columns=5, width=1.3, height=1.4)
            for axis, pixels in zip(axes, pictures, strict=True):
                axis.imshow(np.asarray(pixels))
                axis.set_axis_off()
            figure: Any = axes[0].figure
            save(figure, folder / "bare.png")
        matplotlib.pyplot.close(figure)

    seconds = interleaved({"gallery": drawn, "bare": bare}, 3)
    detail = f"{seconds['gallery']:.2g} s of at most 5, the model's loading and passes included"
    report("gallery of 25 heatmaps / the same pictures alone", seconds["gallery"] / seconds["bare"], "<= 3", detail)


if __name__ == "__main__":
    matplotlib.use("Agg")
    import matplotlib.pyplot

    maps()
    with tempfile.TemporaryDirectory() as temporary:
        gallery(Path(temporary))
