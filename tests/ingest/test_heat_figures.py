"""The figures of heatmaps: what is drawn where, and what is said beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atlas import Atlas
from atlas.errors import UsageError
from atlas.figures import gallery, heatmap
from atlas.figures._heat import drawable, placed, scale_of
from atlas.figures._style import save
from atlas.live.grid.heat_answer import HeatAnswer, Panel, Shown, rows_of
from atlas.live.media import Sound
from atlas.neurons import Neuron
from atlas.testing import check_figure
from cli.main import main

plt = pytest.importorskip("matplotlib.pyplot")
PICTURE = "scenes:held_out/0"


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    plt.switch_backend("agg")
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def of_concept(stored_atlas: Path) -> HeatAnswer:
    return Atlas.open(stored_atlas).heatmap(concept="dog", image=PICTURE, top=5, method="activation")


def made(shown: Shown, values: Any, heat: Any = None, neurons: int = 1) -> HeatAnswer:
    """An answer by hand."""
    some = [Panel(Neuron("language", 1, i), shown, values, heat, (" dog", "\n")) for i in range(neurons)]
    answer = HeatAnswer(rows_of(some))
    answer.panels = tuple(some)
    return answer


def test_the_picture_comes_first_then_the_neurons_then_the_mean(of_concept: HeatAnswer) -> None:
    figure = of_concept.plot().figure
    axes = [axis for axis in figure.axes if axis.get_title(loc="left")]
    titles = [axis.get_title(loc="left") for axis in axes]
    assert titles[0] == "held_out/0" and titles[-1].startswith("mean\nIoU") and len(axes) == 7
    for title, panel in zip(titles[1:-1], of_concept.panels, strict=True):
        assert title.startswith(str(panel.neuron)) and f"IoU {panel.iou:.2f} (random {panel.random:.2f})" in title
    for axis, panel in zip(axes[1:-1], of_concept.panels, strict=True):
        grey, colours = axis.get_images()
        assert grey.get_array().shape == panel.shown.pixels.shape[:2]
        assert np.allclose(colours.get_array(), panel.heat) and colours.get_alpha() == 0.6
        assert not axis.get_xticks().size and axis.get_aspect() == 1
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["largest 5 % of the map", "dog in the picture", "colours: activation, scaled by panel"]


def test_the_legend_leaves_the_line_of_runs_alone(of_concept: HeatAnswer) -> None:
    for answer in (of_concept[:1], of_concept[:3], of_concept):
        figure = answer.plot().figure
        figure.canvas.draw()
        [runs] = [text for text in figure.texts if text.get_text().startswith("run ")]
        assert not runs.get_window_extent().overlaps(figure.legends[0].get_window_extent())


def test_outlines_are_the_percentiles_and_the_concepts(of_concept: HeatAnswer) -> None:
    [panel] = of_concept[:1].panels
    axis = of_concept[:1].plot()
    outlines = {tuple(np.round(lines.get_edgecolor()[0], 3)): lines for lines in axis.collections}
    green = next(c for rgba, c in outlines.items() if rgba[:3] == (0.0, 0.62, 0.451))
    inside = green.get_paths()[0]
    y, x = np.nonzero(panel.mask)
    box = inside.get_extents()
    assert abs(box.x0 - x.min()) <= 0.5 and abs(box.y1 - y.max()) <= 0.5
    black = next(c for rgba, c in outlines.items() if rgba[:3] == (0.0, 0.0, 0.0))
    y, x = np.nonzero(panel.shown.region)
    assert abs(black.get_paths()[0].get_extents().x1 - x.max()) <= 0.5


def test_both_keep_the_contract_of_a_figure(of_concept: HeatAnswer) -> None:
    check_figure(heatmap, of_concept[:1])
    check_figure(gallery, of_concept[:1])
    for draw in (heatmap.draw, gallery.draw):
        with pytest.raises(UsageError, match="the answer has 5 panels; draw one row of it on one panel"):
            draw(of_concept, ax=plt.subplots()[1])


def test_the_pictures_of_one_neuron_are_named_below_their_maps(of_concept: HeatAnswer) -> None:
    pixels, heat = np.zeros((8, 8, 3), np.uint8), np.arange(64, dtype=np.float32).reshape(8, 8)
    first, second = (made(Shown(name, "image", pixels=pixels), np.arange(4.0), heat) for name in ("a.jpg", "b.jpg"))
    second.panels = (*first.panels, *second.panels)
    figure = heatmap.draw(second).figure
    assert [axis.get_xlabel() for axis in figure.axes[:2]] == ["a.jpg", "b.jpg"]
    assert not any(axis.get_xlabel() for axis in of_concept.plot().figure.axes), "one picture, named above it"


def test_an_example_whose_largest_value_is_not_at_what_is_shown_says_so() -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    shown = Shown("a", "image", pixels=pixels, stored=(2.38, ":"))
    assert gallery.draw(made(shown, np.zeros(4), np.zeros((8, 8)))).get_title() == "0 here, 2.38 at :"
    assert gallery.draw(made(shown, np.arange(4.0), np.zeros((8, 8)))).get_title() == "2.38 at :"


def test_what_no_token_sees_is_pale_and_a_constant_map_has_no_colours() -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    heat = np.full((8, 8), 0.5, np.float32)
    heat[:, :2] = np.nan
    axis = heatmap.draw(made(Shown("a", "image", pixels=pixels), np.full(4, 0.5), heat))
    _, veil = axis.get_images()
    assert "0.5 at every token" in axis.get_title(loc="left") and len(axis.figure.axes) == 1
    assert (veil.get_array()[:, :2, 3] == 0.75).all() and not veil.get_array()[:, 2:, 3].any()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("size", [(1, 200), (200, 1), (1, 1)])
def test_a_picture_of_one_row_or_column_is_drawn_without_outlines(size: tuple[int, int], tmp_path: Path) -> None:
    pixels, region = np.zeros((*size, 3), np.uint8), np.arange(size[0] * size[1]).reshape(size) % 2 == 0
    heat = np.arange(size[0] * size[1], dtype=np.float32).reshape(size)
    answer = made(Shown("a", "image", pixels=pixels, region=region, concept="dog"), np.arange(4.0), heat)
    for draw in (heatmap.draw, gallery.draw):
        axis = draw(answer)
        assert axis.get_images()[0].get_array().shape == size and not axis.collections
        save(axis.figure, tmp_path / "a.png")


def test_scales_begin_at_0_or_have_it_in_the_middle() -> None:
    magnitudes, signed = scale_of([np.array([1.0, 4.0])]), scale_of([np.array([-3.0, 1.0]), np.array([np.nan])])
    assert magnitudes is not None and (magnitudes.norm.vmin, magnitudes.norm.vmax) == (0, 4)
    assert signed is not None and (signed.norm.vmin, signed.norm.vmax) == (-3, 3) and signed.colours == "PuOr_r"
    assert scale_of([np.zeros(3)]) is None and scale_of([]) is None


def test_words_stand_in_lines_around_the_largest_value() -> None:
    words = tuple(f" w{i:02}" for i in range(40))
    panel = made(Shown("text", "text", words=words), np.where(np.arange(40) == 30, 2.0, 0.1)).panels[0]
    found = placed(panel, 12, 4)
    assert {line for _, line, _, _ in found} == {0, 1, 2, 3} and len(found) == 12
    assert [word.strip() for word, *_, value in found if value == 2] == ["w30"]
    assert all(column + len(word) <= 12 for word, _, column, _ in found)
    axis = heatmap.draw(made(panel.shown, panel.values))
    assert len(axis.patches) == len(axis.texts) > 3 and "w30" in {text.get_text().strip() for text in axis.texts}


def test_a_strip_and_a_spectrogram_have_labelled_axes() -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    axis = heatmap.draw(made(Shown("a", "image", pixels=pixels), np.arange(32.0)))
    assert axis.child_axes[0].get_images()[0].get_array().shape == (1, 32)
    assert axis.get_xlabel() == "32 image tokens"
    sound = Sound(np.sin(np.arange(16000) / 5).astype(np.float32), 8000)
    axis = heatmap.draw(made(Shown("a.wav", "audio", sound=sound), np.arange(10.0)))
    spectrum, values = axis.get_images()
    assert spectrum.get_extent()[:2] == [0, 2.0] == values.get_extent()[:2] and values.get_array().shape == (1, 10)
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("time, s", "frequency, kHz")


def test_tokens_are_drawn_with_signs_that_the_font_has() -> None:
    assert drawable("a\r\nb\t\x00\u72ac é") == "a↵b→□□ é"


def test_more_panels_than_a_figure_can_show_are_refused() -> None:
    shown = Shown("a", "image", pixels=np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(UsageError, match="72 panels are too many"):
        heatmap.draw(made(shown, np.arange(4.0), np.zeros((4, 4)), neurons=70))


def test_the_same_answer_gives_the_same_bytes(of_concept: HeatAnswer, tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        save(of_concept.plot().figure, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_the_commands_write_figures(stored_atlas: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    place = ["--atlas", str(stored_atlas)]
    [row] = (
        Atlas.open(stored_atlas).sql("SELECT layer, neuron FROM exemplars WHERE source = 'image' LIMIT 1").to_pylist()
    )
    address = f"{row['layer']}/{row['neuron']}"
    for name, words in {
        "heat.png": ["plot", "heatmap", address, "--image", PICTURE, "--out"],
        "concept.svg": ["plot", "heatmap", "--concept", "dog", "--image", PICTURE, "--top", "3", "--out"],
        "gallery.pdf": ["plot", "gallery", address, "--out"],
        "exemplars.png": ["neuron", address, "--gallery"],
    }.items():
        code = main([*words, str(tmp_path / name), *place])
        out, err = capfd.readouterr()
        assert code == 0 and out.splitlines()[-1] == str(tmp_path / name), err
        assert (tmp_path / name).stat().st_size > 1000
    assert main(["plot", "heatmap", address, "--image", PICTURE, "--out", "heat.gif", *place]) == 2
    assert "cannot draw to 'heat.gif'" in capfd.readouterr().err
    assert main(["neuron", address, "--gallery", "heat.gif", *place]) == 2
    capfd.readouterr()
    assert main(["plot", "gallery", address, "--out", str(tmp_path / "none" / "a.png"), *place]) == 2
    assert "there is no folder" in capfd.readouterr().err
