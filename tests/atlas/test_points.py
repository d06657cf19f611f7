"""`points`: the stored layouts of a layer's tokens, and the distances of their roles there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from atlas import Atlas
from atlas.errors import UsageError
from atlas.store import arrow_types, engine, run_loader, schema


@pytest.fixture
def laid_out(empty: Path, make_run: Callable[..., Any]) -> Path:
    """A run with points of the layers 0 and 1, by two projections, and one measure of each."""
    run = make_run(3)
    [point], [measure] = (run.tables[name].to_pylist() for name in ("points", "measures"))
    points = [
        {**point, "layer": layer, "projection": projection, "position": n, "x": float(n), "y": float(layer)}
        | {"condition": "before"}
        for projection in ("pca", "tsne")
        for layer in (0, 1)
        for n in range(3)
    ]
    apart = {**measure, "name": "centroid_distance", "concept": None}
    measures = [measure, *({**apart, "layer": layer, "value": 0.5 * (layer + 1)} for layer in (0, 1))]
    for name, values in (("points", points), ("measures", measures)):
        columns = arrow_types.arrow_schema(schema.metadata.tables[name])
        run.tables[name] = pa.Table.from_pylist(values, schema=columns)
    with engine.connect_writer(empty) as connection:
        run_loader.load_run(connection, run.write(empty))
    return empty


def test_the_last_layer_is_shown_with_its_distances(laid_out: Path) -> None:
    answer = Atlas.open(laid_out).points()
    assert answer.facts["layer"] == 1 and answer.defaults == ("layer=1 (also stored: 0)",)
    rows = answer.to_pylist()
    assert [(row["projection"], row["x"], row["y"]) for row in rows] == [
        (projection, float(n), 1.0) for projection in ("pca", "tsne") for n in range(3)
    ]
    assert {(row["source"], row["condition"]) for row in rows} == {("image", "before")}
    [distance] = answer.parts["distances"].to_pylist()
    assert (distance["first"], distance["second"], distance["value"]) == ("text", "image", 1.0)


def test_a_layer_and_a_projection_are_chosen_and_others_refused(laid_out: Path) -> None:
    atlas = Atlas.open(laid_out)
    answer = atlas.points(layer=0, projection="tsne")
    assert len(answer) == 3 and not answer.defaults and answer.parts["distances"]["value"].to_pylist() == [0.5]
    with pytest.raises(UsageError, match=r"has points of the layers 0, 1, not 7"):
        atlas.points(layer=7)
    with pytest.raises(UsageError, match="umap"):
        atlas.points(projection="umap")
    with pytest.raises(UsageError, match="no run"):
        atlas.points(run="zz")


def test_nothing_is_shown_of_an_atlas_without_layouts(stored_atlas: Path) -> None:
    with pytest.raises(UsageError, match="no tokens are laid out yet"):
        Atlas.open(stored_atlas).points()
