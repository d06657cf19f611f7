"""A map of neurons for Embedding Atlas: points against scikit-learn, labels against questions, pictures that open."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from atlas.api.atlas import Atlas
from atlas.store.database import open_readonly
from atlas.vectors.faiss_files import unit
from atlas.vectors.neuron_map import principal_components

Run = Callable[..., tuple[int, str, str]]


def test_principal_components_are_those_of_a_library() -> None:
    decomposition = pytest.importorskip("sklearn.decomposition")
    rows = np.random.default_rng(0).standard_normal((200, 7)) * np.arange(1, 8)
    points, explained = principal_components(rows)
    expected = decomposition.PCA(2).fit(rows)
    signs = np.sign((points * expected.transform(rows)).sum(0))
    np.testing.assert_allclose(points, expected.transform(rows) * signs, atol=1e-4)
    np.testing.assert_allclose(explained, expected.explained_variance_ratio_)
    assert (principal_components(rows)[0] == points).all()
    assert principal_components(np.ones((3, 1)))[0].shape == (3, 2), "fewer directions than axes"


def test_every_neuron_is_a_point_with_its_best_concept(run: Run, own_atlas: Path, tmp_path: Path) -> None:
    assert run("index", "build", "--space", "profile", "--atlas", own_atlas)[0] == 0
    file = tmp_path / "neurons.parquet"
    code, out, err = run("export", file, "--as", "embedding-atlas", "--images", 5, "--atlas", own_atlas)
    assert code == 0 and out.startswith(f"{file}: 128 neurons of ") and "embedding-atlas" in err, err
    table = pq.read_table(file)
    assert table.column_names == ["neuron", "layer", "x", "y", "label", "rank", "text", "image"]
    about = json.loads(table.schema.metadata[b"neuron_atlas"])
    opened = Atlas(own_atlas)
    rows = {row["neuron"]: row for row in table.to_pylist()}
    assert len(rows) == 128
    best: dict[str, tuple[int, str]] = {}
    names = {name: about[name] for name in ("method", "source", "target", "reduce")}
    for concept in [row["concept"] for row in opened.concepts().to_pylist() if row["maps"]]:
        for row in opened.query(concept, top=1000, **names).to_pylist():
            address = f"{row['layer']}/{row['neuron']}"
            best[address] = min(best.get(address, (10**9, "")), (row["rank"], concept))
    assert {address: (row["rank"], row["label"]) for address, row in rows.items()} == best
    with open_readonly(own_atlas) as connection:
        stored = connection.sql("SELECT vector FROM vectors ORDER BY component, layer, neuron").fetchall()
    points = principal_components(unit(np.array([row[0] for row in stored])))[0]
    np.testing.assert_allclose([[row["x"], row["y"]] for row in rows.values()], points, atol=1e-6)


def test_pictures_are_those_of_the_strongest_examples(run: Run, own_atlas: Path, tmp_path: Path) -> None:
    from PIL import Image

    assert run("index", "build", "--space", "profile", "--atlas", own_atlas)[0] == 0
    counts = []
    for number in (0, 5, 1000):
        file = tmp_path / f"{number}.parquet"
        options = ["--as", "embedding-atlas", "--images", number, "--atlas", own_atlas]
        assert run("export", file, *options)[0] == 0
        rows = [row for row in pq.read_table(file).to_pylist() if row["image"]]
        counts.append(len(rows))
    assert counts[0] == 0 < counts[1] <= 5 < counts[2]
    opened = Atlas(own_atlas)
    for row in rows[:5]:
        assert max(Image.open(io.BytesIO(row["image"]["bytes"])).size) <= 128
        [first] = [r for r in opened.exemplars(row["neuron"], source="image").to_pylist() if r["rank"] == 1]
        assert row["image"]["path"] == f"{first['example']}.jpg"


def test_what_cannot_be_exported_is_said(run: Run, stored_atlas: Path, tmp_path: Path) -> None:
    for options, message in (
        ([tmp_path / "a.csv", "--as", "embedding-atlas"], "ends in .parquet"),
        ([tmp_path / "a.parquet", "--as", "embedding-atlas"], "was never built"),
        ([tmp_path / "a.parquet", "--as", "embedding-atlas", "--concept", "dog"], "leave out --concept"),
        ([tmp_path / "a", "--as", "tarball"], "--as is bundle or embedding-atlas"),
    ):
        code, out, err = run("export", *options, "--atlas", stored_atlas)
        assert (code, out) == (2, "") and message in err, err
    assert not list(tmp_path.iterdir())
