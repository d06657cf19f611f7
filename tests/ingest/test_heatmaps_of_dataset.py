"""Heatmaps over many pictures: planted neurons, a loop over pictures one by one, and the figure."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from atlas import Atlas
from atlas.errors import UsageError
from atlas.figures import heatmaps
from atlas.live.grid.heat_answer import Panel, Shown
from atlas.live.grid.heatmap import iou, percentile_mask
from atlas.neurons import Neuron
from atlas.testing import check_figure
from cli.main import main
from ingest.analyse.heat import Seen
from ingest.analyse.heat_dataset import SIDE, rows_of, tally


@pytest.fixture(scope="module")
def atlas(stored_atlas: Path) -> Atlas:
    return Atlas.open(stored_atlas)


def test_a_neuron_that_follows_the_concept_is_told_from_one_that_looks_at_one_place() -> None:
    """Regions of a sixteenth of the picture that move; the third neuron is random."""
    follows, fixed, noise = (Neuron("language", 0, i) for i in range(3))
    draw, seen = np.random.default_rng(0), []
    for number in range(30):
        region = np.zeros((96, 128), bool)
        top, left = int(draw.integers(0, 72)), int(draw.integers(0, 96))
        region[top : top + 24, left : left + 32] = True
        place = np.zeros((96, 128), np.float32)
        place[36:60, 48:80] = 1
        shown = Shown(f"{number}", "image", pixels=np.zeros((96, 128, 3), np.uint8), region=region)
        heats = {follows: region.astype(np.float32), fixed: place, noise: draw.random((96, 128)).astype(np.float32)}
        panels = [Panel(n, shown, np.ones(4), heat, percentile=93.75) for n, heat in heats.items()]
        seen.append(Seen(panels[:2], panels[2:]))
    found = tally(seen)
    rows = rows_of(found.neurons, found.regions).to_pylist()
    assert [row["pictures"] for row in rows] == [30, 30]
    assert rows[0]["iou"] > 0.95 and rows[0]["low"] > 0.9 and rows[0]["other_region"] < 0.2 and rows[0]["pointing"] == 1
    assert rows[1]["iou"] < 0.2 and abs(rows[1]["iou"] - rows[1]["other_region"]) < 0.1
    [random] = rows_of(found.controls, found.regions).to_pylist()
    assert random["iou"] < 0.06
    assert found.where.shape == (SIDE, SIDE) and found.where.mean() == pytest.approx(1 / 16, abs=0.005)
    assert np.allclose(found.neurons[follows].mean, found.where) and found.neurons[fixed].mean[32, 32] == 1


def test_pictures_of_which_tokens_see_a_part_count_where_they_are_seen() -> None:
    neuron, seen = Neuron("language", 0, 0), []
    for value in (1.0, 3.0):
        heat = np.full((SIDE, SIDE), value, np.float32)
        heat[: SIDE // 2] = np.nan if value == 1 else value
        region = np.ones((SIDE, SIDE), bool)
        shown = Shown(f"{value}", "image", pixels=np.zeros((SIDE, SIDE, 3), np.uint8), region=region)
        seen.append(Seen([Panel(neuron, shown, np.ones(4), heat)], []))
    mean = tally(seen).neurons[neuron].mean
    assert (mean[: SIDE // 2] == 3).all() and (mean[SIDE // 2 :] == 2).all()


def test_rows_are_as_a_loop_over_pictures_gives_them(atlas: Atlas) -> None:
    answer = atlas.heatmaps("1/7", concept="dog", pictures=5, mask_percentile=80)
    stored = atlas.sql(
        "SELECT min(example_id) AS id FROM examples WHERE source = 'image' AND list_contains(concepts, 'dog') "
        "GROUP BY media ORDER BY id LIMIT 5"
    ).to_pylist()
    panels = [atlas.heatmap("1/7", example=row["id"], concept="dog").panels[0] for row in stored]
    assert all(panel.heat.shape == (SIDE, SIDE) for panel in panels), "so nothing is resampled"
    masks, regions = [percentile_mask(panel.heat, 80) for panel in panels], [panel.shown.region for panel in panels]
    every = np.ones((SIDE, SIDE), bool)
    own = [iou(mask, region, every) for mask, region in zip(masks, regions, strict=True)]
    null = [iou(mask, region, every) for mask, region in zip(masks, regions[1:] + regions[:1], strict=True)]
    [row] = answer.to_pylist()
    assert (row["pictures"], row["iou"]) == (5, pytest.approx(np.mean(own))) and row["low"] < row["iou"] < row["high"]
    assert row["other_region"] == pytest.approx(np.mean(null))
    assert row["pointing"] == pytest.approx(np.mean([panel.pointing for panel in panels]))
    assert np.allclose(answer.maps[Neuron("language", 1, 7)], np.mean([panel.heat for panel in panels], 0), atol=1e-6)
    assert np.allclose(answer.where, np.mean(regions, 0))
    assert 10 <= len(answer.parts["random"]) <= 20 and set(answer.parts["random"]["layer"].to_pylist()) == {1}


def test_the_figure_shows_the_concept_and_every_neuron(atlas: Atlas) -> None:
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.switch_backend("agg")
    answer = atlas.heatmaps(concept="dog", method="activation", top=3, pictures=4)
    assert answer.neurons == atlas.query("dog", "activation", top=3).neurons
    figure = answer.plot().figure
    titles = [axis.get_title(loc="left") for axis in figure.axes if axis.get_title(loc="left")]
    assert titles[0] == "dog\nin 4 pictures" and len(titles) == 4
    assert [title.split()[0] for title in titles[1:]] == [str(neuron) for neuron in answer.neurons]
    assert np.allclose(figure.axes[0].get_images()[0].get_array(), answer.where)
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    random = answer.parts["random"]["iou"].to_pylist()
    assert (
        words[1] == f"IoU of {len(random)} random neurons of the same {answer.facts['matched']}: {np.mean(random):.2f}"
    )
    for row, title in zip(answer.to_pylist(), titles[1:], strict=True):
        assert f"IoU {row['iou']:.2f} (elsewhere {row['other_region']:.2f})" in title
    at = answer.table.column_names.index("other_region")
    unknown = answer._like(answer.table.set_column(at, "other_region", pa.nulls(3, pa.float32())))
    assert "elsewhere" not in unknown.plot().figure.axes[1].get_title(loc="left"), "what is not known is not 0"
    check_figure(heatmaps, answer[1:2])
    with pytest.raises(UsageError, match="the answer has 3 panels"):
        heatmaps.draw(answer, ax=plt.subplots()[1])
    plt.close("all")


def test_the_command_prints_the_table_and_says_what_stores_it_for_every_neuron(
    atlas: Atlas, own_atlas: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    asked = [
        "heatmaps",
        "--concept",
        "dog",
        "--method",
        "activation",
        "--top",
        "2",
        "--pictures",
        "3",
        "--format",
        "json",
    ]
    assert main([*asked, "--atlas", str(own_atlas)]) == 0
    out, err = capfd.readouterr()
    answer = atlas.heatmaps(concept="dog", method="activation", top=2, pictures=3)
    assert [row["iou"] for row in json.loads(out)["rows"]] == pytest.approx(answer["iou"].to_pylist())
    assert "`atlas ingest --methods iou` stores the IoU of every neuron" in err
    [run] = atlas.sql("SELECT m.name FROM models m").to_pylist()
    ingested = ["--model", run["name"], "--dataset", "scenes", "--concepts", "dog", "--per-concept", "1"]
    line = ["ingest", *ingested, "--methods", "iou", "--sources", "image", "--atlas", str(own_atlas)]
    assert main(line) == 0
    assert main([*asked, "--atlas", str(own_atlas)]) == 0
    assert "every neuron's IoU is stored: `atlas query --concept dog --method iou`" in capfd.readouterr().err


def test_what_cannot_be_compared_is_refused(atlas: Atlas) -> None:
    with pytest.raises(UsageError, match="give a concept, whose pixels"):
        atlas.heatmaps("1/7")
    with pytest.raises(UsageError, match="method and conditions choose among a concept's neurons"):
        atlas.heatmaps("1/7", concept="dog", method="activation")
    with pytest.raises(UsageError, match="no stored concept called 'dgo'"):
        atlas.heatmaps(concept="dgo")
    with pytest.raises(UsageError, match="pictures must be at least 2"):
        atlas.heatmaps(concept="dog", pictures=1)
