"""Heatmaps on the neuron page: those of `atlas plot heatmap`, by the live model of the server."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from live_parts import LiveClient, live_server
from PIL import Image
from web_parts import served

from atlas.api.atlas import Atlas

pytest.importorskip("fastapi")

HTML = {"Accept": "text/html"}
NEURON = "0/1"


@pytest.fixture(scope="module")
def path(stored_atlas: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(stored_atlas, tmp_path_factory.mktemp("heat") / "heat.atlas"))


@pytest.fixture(scope="module")
def live(path: Path, llava_folder: Path) -> Iterator[LiveClient]:
    with live_server(path, llava_folder) as client:
        yield client


@pytest.fixture(scope="module")
def dog(path: Path) -> str:
    """An example whose picture shows a dog."""
    statement = "SELECT example_id FROM examples WHERE source = 'image' AND list_contains(concepts, 'dog') ORDER BY ALL"
    return str(Atlas(path).sql(statement).to_pylist()[0]["example_id"])


@pytest.fixture(scope="module")
def expected(path: Path, dog: str, llava_folder: Path) -> Any:
    """The panel of `atlas plot heatmap`, which loads the model itself."""
    from cli.web.heat import SIDE
    from ingest.requests.heatmap import Heatmap
    from ingest.requests.progress import silent

    request = Heatmap(NEURON, example=dog, concept="dog", model=str(llava_folder))
    [panel] = request.look(path, silent, SIDE).panels
    assert panel.iou is not None and np.ptp(panel.heat) > 0
    return panel


def pixels(response: Any) -> Any:
    assert response.status_code == 200 and response.headers["content-type"] == "image/png", response.text
    return np.asarray(Image.open(io.BytesIO(response.content)))


def test_the_map_is_that_of_the_command(live: LiveClient, dog: str, expected: Any) -> None:
    got = live.get(f"/heat/{dog}/{NEURON}?concept=dog")
    shown = pixels(got)
    least, most = (float(got.headers[f"x-heat-{name}"]) for name in ("min", "max"))
    heat = expected.heat
    assert (least, most) == pytest.approx((np.nanmin(heat), np.nanmax(heat)), rel=1e-5)
    assert shown.shape == (*heat.shape, 2) and (shown[..., 1] == 255 * ~np.isnan(heat)).all()
    values = least + shown[..., 0] / 255 * (most - least)
    assert np.nanmax(np.abs(values - heat)) <= 0.51 * (most - least) / 255
    ious = got.headers["x-heat-iou"].split(",")
    assert len(ious) == 100 and float(ious[95]) == pytest.approx(expected.iou, abs=1e-4)
    assert float(got.headers["x-heat-random-iou"]) == pytest.approx(expected.random, abs=1e-4)
    assert float(ious[0]) > 0, "nearly the whole picture has some of the dog"
    without = live.get(f"/heat/{dog}/{NEURON}")
    assert (pixels(without) == shown).all() and "x-heat-iou" not in without.headers


def test_a_map_is_computed_once_until_the_atlas_changes(live: LiveClient, dog: str, path: Path) -> None:
    def computed() -> bool:
        seen: list[int] = []
        submit = live.worker.submit
        live.worker.submit = lambda *given: (seen.append(1), submit(*given))[1]
        try:
            assert live.get(f"/heat/{dog}/0/7").status_code == 200
        finally:
            live.worker.submit = submit
        return bool(seen)

    assert [computed(), computed()] == [True, False]
    opened = Atlas(path)
    opened.save_selection("some", opened.query("dog", "contribution", source="text", top=2))
    assert [computed(), computed()] == [True, False]
    mark = live.get(f"/heat/{dog}/0/7").headers["etag"]
    assert live.get(f"/heat/{dog}/0/7", **{"If-None-Match": mark}).status_code == 304


def test_the_mask_is_the_datasets(live: LiveClient, path: Path, dog: str, expected: Any) -> None:
    assert (pixels(live.get(f"/mask/{dog}/dog")) == 255 * expected.shown.region).all()
    with served(path) as without:
        assert (pixels(without.get(f"/mask/{dog}/dog")) == 255 * expected.shown.region).all(), "needs no model"


def test_the_overlay_dims_what_is_below_the_percentile(live: LiveClient, dog: str, expected: Any) -> None:
    from atlas.live.grid.heatmap import percentile_mask
    from cli.web.heat import OUTLINE, outline

    got = live.get(f"/heat/{dog}/{NEURON}/overlay?percentile=80&concept=dog")
    laid, edge = pixels(got), outline(expected.shown.region)
    above = percentile_mask(expected.heat, 80)
    assert (laid[above & ~edge] == expected.shown.pixels[above & ~edge]).all()
    assert (laid[~above & ~edge] < expected.shown.pixels[~above & ~edge] / 2 + 1).all()
    assert edge.any() and (laid[edge] == OUTLINE).all() and not outline(np.ones((3, 3), bool))[1, 1]


def test_what_there_is_not_is_said(live: LiveClient, path: Path, dog: str) -> None:
    [words] = Atlas(path).sql("SELECT example_id FROM examples WHERE source = 'text' LIMIT 1").to_pylist()
    cases = (
        (f"/heat/{'0' * 32}/0/1", 404, "no stored example"),
        (f"/heat/{dog[:8]}/0/1", 404, "no stored example"),
        (f"/heat/{dog}/9/1", 400, "no neuron"),
        (f"/heat/{dog}/0/99999", 400, "no neuron"),
        (f"/heat/{words['example_id']}/0/1", 404, "no place in a picture"),
        (f"/heat/{dog}/0/1/overlay?percentile=100", 400, "below 100"),
        (f"/heat/{dog}/0/1/overlay?percentile=nan", 400, "below 100"),
        (f"/mask/{dog}/nothing", 404, "no concept nothing"),
        (f"/mask/{words['example_id']}/dog", 404, "no picture"),
    )
    for address, status, message in cases:
        got = live.get(address)
        assert got.status_code == status and message in got.json()["detail"], (address, got.text)


def test_the_neuron_page_has_maps_with_a_model_and_says_how_without(
    live: LiveClient, path: Path, llava_folder: Path
) -> None:
    address = f"/m/{llava_folder}/n/{NEURON}"
    page = live.get(address, **HTML).text
    pictures = [row for row in Atlas(path).exemplars(NEURON).to_pylist() if row["source"] == "image"]
    assert pictures
    for row in pictures:
        assert f'data-heat="/heat/{row["example"]}/{NEURON}' in page and "/overlay" not in page
    assert 'src="/static/heat.js"' in page and "<canvas" in page and " style=" not in page
    shown = {concept for row in pictures for concept in row["concepts"]}
    [chosen] = re.findall(r"<option selected>(.*?)</option>", page)
    assert chosen in shown and all(f">{concept}</option>" in page for concept in shown)
    drawn = live.get(f"{address}?percentile=90&concept=cat", **HTML).text
    overlays = list(map(unescape, re.findall(r'src="([^"]+/overlay[^"]*)"', drawn)))
    assert len(overlays) == len(pictures) and "percentile=90" in overlays[0] and "concept=cat" in overlays[0]
    assert all(live.get(overlay).status_code == 200 for overlay in overlays)
    assert "<option selected>cat</option>" in drawn and live.get(f"{address}?percentile=x").status_code == 400
    with served(path) as without:
        page = without.get(address, headers=HTML).text
        assert f"`atlas serve --model {llava_folder}` shows heatmaps" in unescape(page)
        assert "heat.js" not in page and "<canvas" not in page
