"""What a notebook shows of answers, runs and edits: pictures and figures inside the page, everything escaped."""

from __future__ import annotations

import base64
import io
import re
import shutil
import sys
from pathlib import Path

import pyarrow as pa
import pytest

import atlas
from atlas.api.atlas import Atlas
from atlas.query.html import SHOWN_ROWS, image_html, line_html, table_html
from atlas.questions import _strongest
from ingest.data.examples import BadMedia
from ingest.datasets.scenes import Scenes

IMAGE = re.compile(r'<img src="data:image/(png|jpeg);base64,([^"]+)" alt="([^"]*)"')


def pictures(html: str) -> list[tuple[tuple[int, int], str]]:
    """Size and alternative text of every picture of a page."""
    from PIL import Image

    return [(Image.open(io.BytesIO(base64.b64decode(data))).size, words) for _, data, words in IMAGE.findall(html)]


def excited(opened: Atlas) -> str:
    """A neuron that pictures excite."""
    [row] = opened.sql("SELECT layer, neuron FROM exemplars WHERE source = 'image' LIMIT 1").to_pylist()
    return f"{row['layer']}/{row['neuron']}"


def test_everything_from_data_is_escaped() -> None:
    bad = '<script>"x"</script>'
    table = pa.table({bad: [bad] * (SHOWN_ROWS + 1)})
    for html in (table_html(table, bad), line_html(bad), image_html("data:,", bad)):
        assert "<script" not in html and "&lt;script&gt;" in html
    assert '"x"' not in image_html("data:,", bad)
    assert f"{SHOWN_ROWS} of {SHOWN_ROWS + 1} rows" in table_html(table)


def test_exemplars_show_their_pictures_in_their_order(stored_atlas: Path) -> None:
    opened = Atlas.open(stored_atlas)
    exemplars = opened.neuron(excited(opened)).exemplars
    rows = [row for row in exemplars.to_pylist() if row["media"]]
    shown = pictures(exemplars._repr_html_())
    assert [words.split(":")[0] for _, words in shown] == [f"image {row['rank']}" for row in rows] and rows
    assert all(max(size) <= 128 for size, _ in shown)
    assert len(pictures(exemplars[:1]._repr_html_())) == 1, "a slice shows its own"
    assert opened.exemplars(excited(opened), source="image")._repr_html_().count("<img") == len(rows)
    assert len(exemplars._repr_html_()) < 100_000


def test_pictures_that_are_gone_are_said_so(stored_atlas: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Atlas.open(stored_atlas)
    exemplars = opened.exemplars(excited(opened), source="image")
    [gone] = exemplars[:1].to_pylist()[0]["media"]
    image = Scenes.image

    def missing(self: Scenes, media: str) -> object:
        if media == gone:
            raise BadMedia(f"{media} is missing")
        return image(self, media)

    monkeypatch.setattr(Scenes, "image", missing)
    html = exemplars._repr_html_()
    lost = sum(row["media"] == [gone] for row in exemplars.to_pylist())
    assert len(pictures(html)) == len(exemplars) - lost
    assert f"<div>image 1: cannot be shown: {gone} is missing</div>" in html


def test_without_the_extra_the_rows_are_shown_and_what_to_install(
    stored_atlas: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Atlas.open(stored_atlas)
    exemplars = opened.neuron(excited(opened)).exemplars
    monkeypatch.setitem(sys.modules, "ingest.run.thumbnails", None)
    with pytest.raises(ModuleNotFoundError):  # which no extra brings: it is a fault of ours
        exemplars._repr_html_()
    monkeypatch.setattr(_strongest, "missing_extra", lambda error: "torch: pip install it")
    html = exemplars._repr_html_()
    assert html.startswith("<table>") and "the pictures need torch: pip install it" in html


def test_a_neuron_without_exemplars_says_why(tmp_path: Path) -> None:
    opened = Atlas.open(tmp_path / "own.atlas", create=True)
    asked = {"concepts": ["dog"], "methods": "contribution", "per_concept": 1, "sources": "text"}
    opened.ingest("tiny-llava", "scenes", exemplars=0, **asked)
    profile = opened.neuron("3/265")
    assert not len(profile.exemplars)
    for answer in (profile, profile.exemplars, opened.exemplars("3/265")):
        assert answer.notes and answer.notes[-1].startswith("no exemplars of 3/265 are stored"), answer


def test_heatmaps_show_their_figure(stored_atlas: Path) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib import pyplot as plt

    opened = Atlas.open(stored_atlas)
    answer = opened.neuron(excited(opened)).gallery(exemplars=2)
    before = plt.get_fignums()
    [(size, _)] = pictures(answer._repr_html_())
    assert size[0] > size[1] > 50
    assert plt.get_fignums() == before, "no figure is left open, which a notebook would show once more"


def test_a_run_and_an_edit_say_what_they_are(stored_atlas: Path, tmp_path: Path) -> None:
    opened = Atlas.open(shutil.copytree(stored_atlas, tmp_path / "own.atlas"))
    run = opened.run(opened.runs()[0]["run"])
    facts = run.facts["run"]
    assert repr(run) == f"Record(run {facts['run_id'][:8]}: ingest, {facts['model']['name']} over scenes, done)"
    edit = opened.create_edit("no-dog", opened.query("dog", "contribution", top=3), atlas.ablate(), note="<b>")
    html = edit._repr_html_()
    assert "&lt;b&gt;" in html and html.count("<tr>") == 4
    assert [row["gain"] for row in edit.changes().to_pylist()] == [0.0] * 3
