"""Figures: what is drawn equals the answer's numbers; every text is inside; every figure keeps the contract."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from figure_parts import (
    answers,
    cross_rows,
    dose_rows,
    effects,
    label_layers,
    label_rows,
    leaderboard_rows,
    many_shared,
    match_rows,
    measure_rows,
    point_rows,
    property_rows,
    require_tidy,
    role_rows,
    search_rows,
)

import atlas.figures
from atlas import Atlas, registry
from atlas.errors import UsageError
from atlas.query.answer import Answer
from atlas.testing import check_figure

pytest.importorskip("matplotlib")
import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from atlas.figures import _style

NAMES = sorted(set(registry.folder_names(atlas.figures)) - {"heatmap", "heatmaps", "gallery", "edit_answers"})
"""Figures of answers to questions; those of requests, which run a model, have tests of their own."""


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    plt.close("all")


def drawn(name: str, answer: Answer, **options: Any) -> Any:
    """The first panel of a figure drawn in the style and with its caption, as `Answer.plot` does."""
    with _style.styled():
        axes = registry.load(atlas.figures, name).draw(answer, **options)
        _style.add_caption(axes.figure, answer)
    require_tidy(axes.figure)
    return axes


def labels(axis: Any) -> list[str]:
    return [label.get_text() for label in axis.get_yticklabels()]


def points_of(axis: Any) -> dict[str, list[float]]:
    """Points with intervals: by their label."""
    return {c.get_label(): c.lines[0].get_xdata().tolist() for c in axis.containers if hasattr(c, "has_xerr")}


def intervals_of(axis: Any, label: str) -> list[tuple[float, float]]:
    [container] = [c for c in axis.containers if c.get_label() == label]
    return [(segment[0][0], segment[1][0]) for segment in container.lines[2][0].get_segments()]


def framed(axis: Any) -> list[tuple[float, float]]:
    """The cells with a frame."""
    [frames] = axis.collections
    return [tuple(path.vertices[:4].mean(0)) for path in frames.get_paths()]


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_keeps_the_contract_and_is_tidy(name: str, stored_atlas: Path) -> None:
    answer = answers(stored_atlas)[name]
    check_figure(importlib.import_module(f"atlas.figures.{name}"), answer)
    axes = drawn(name, answer)
    assert axes.figure.get_size_inches()[0] >= _style.WIDTH


@pytest.mark.parametrize("name", NAMES)
def test_the_same_answer_is_saved_as_the_same_bytes(name: str, stored_atlas: Path, tmp_path: Path) -> None:
    answer = answers(stored_atlas)[name]
    for file in ("first.svg", "second.svg"):
        _style.save(drawn(name, answer).figure, tmp_path / file)
    assert (tmp_path / "first.svg").read_bytes() == (tmp_path / "second.svg").read_bytes()


def test_layers_are_lines_with_the_band_of_as_many_drawn_evenly(stored_atlas: Path) -> None:
    answer = Atlas.open(stored_atlas).layers("dog", sources=("image", "text"), top=10)
    axis = drawn("layers", answer)
    rows = answer.to_pylist()
    for line, name in zip(axis.get_lines(), ("image", "text", "both"), strict=True):
        counts = [row["count"] for row in rows if row["set"] == name]
        assert line.get_ydata().tolist() == counts and line.get_label() == f"{name} (n = {sum(counts)})"
    assert len({(line.get_linestyle(), line.get_marker()) for line in axis.get_lines()}) == 3
    band = axis.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == (rows[0]["null_low"], rows[0]["null_high"])
    assert axis.collections[0].get_label() == "10 drawn evenly, 95 %"


@pytest.mark.parametrize("name", ["shared", "only"])
def test_an_overlap_is_a_bar_beside_a_bar_for_each_null(name: str, stored_atlas: Path) -> None:
    answer = getattr(Atlas.open(stored_atlas), name)("dog", top=20)
    axis = drawn(name, answer)
    facts = answer.facts
    widths = [bar.get_width() for bar in axis.patches]
    assert widths[:2] == [facts[name], facts["chosen"] - facts[name]]
    assert widths[2:] == [facts["expected"], facts["expected_matched"], facts["expected_mismatched"]]
    assert axis.texts[1].get_text().strip() == f"{facts['expected']:.3g} expected, p = {facts['p']:.2g}"
    assert "dog: best 20 of image and of text" in axis.get_title()


def test_several_concepts_are_filled_where_every_null_is_rejected() -> None:
    axis = drawn("shared", many_shared())
    assert labels(axis) == ["clock", "fish", "bird"]
    by_label = {line.get_label(): line for line in axis.get_lines()}
    rejected = by_label["shared of 40: every null rejected"]
    assert rejected.get_xdata().tolist() == [30, 20] and rejected.get_markerfacecolor() != "white"
    kept = by_label["shared of 40: not every null rejected"]
    assert kept.get_xdata().tolist() == [10] and kept.get_markerfacecolor() == "white"
    assert by_label["expected: same layer and mean |activation|"].get_xdata().tolist() == [4.0] * 3
    with pytest.raises(UsageError, match="room for 60 concepts, and the answer has 61"):
        drawn("shared", many_shared([f"c{n}" for n in range(61)]))


def test_effects_are_before_edited_and_random_with_their_intervals() -> None:
    axis = drawn("effects", effects())
    found = points_of(axis)
    assert list(found) == ["before", "edited", "random neurons, 3 draws"]
    assert found["edited"] == pytest.approx([20, 25, 20, 25])
    assert intervals_of(axis, "edited")[0] == pytest.approx((10, 25))
    assert intervals_of(axis, "edited")[2] == pytest.approx((20, 20))  # a single task has no interval
    assert labels(axis)[:2] == ["all tasks: concept (n = 12)", "all tasks: others (n = 12)"]
    assert axis.get_xlabel() == "right answers, %"


def test_effects_have_a_panel_a_metric_and_costs_are_left_out() -> None:
    answer = effects(metrics=("accuracy", "log_probability"))
    axis = drawn("effects", answer)
    shown = [panel.get_xlabel() for panel in axis.figure.axes if panel.axison]
    assert shown == ["right answers, %", "log-probability, nats"]
    assert drawn("effects", answer, metric="log_probability").get_xlabel() == shown[1]
    with pytest.raises(UsageError, match="2 panels .* for one, give metric and source"):
        drawn("effects", answer, ax=plt.subplots()[1])
    with pytest.raises(UsageError, match="no effects on questions"):
        drawn("effects", answer, source="audio")


def test_the_leaderboard_is_correlation_beside_effect() -> None:
    answer = leaderboard_rows(("image", "text"))
    first, second, *rest = drawn("leaderboard", answer).figure.axes
    assert points_of(first)["_nolegend_" if "_nolegend_" in points_of(first) else next(iter(points_of(first)))] == (
        pytest.approx([0.8, 0.5, 0.2])
    )
    assert points_of(second)["its concept"] == pytest.approx([20, 20])
    assert intervals_of(second, "its concept, random neurons")[0] == pytest.approx((80, 100))
    assert labels(second)[0] == "gradient_x_activation (n = 18)" and labels(second)[2] == "activation (not measured)"
    assert len(rest) == 2 and second.get_title() == "image, 40 neurons ablated"
    one = drawn("leaderboard", answer, ax=plt.subplots(layout="constrained")[1], source="text", measure="effect")
    assert one.get_xlabel() == "right answers left, %"
    with pytest.raises(UsageError, match="measure is correlation or effect"):
        drawn("leaderboard", answer, measure="speed")


def test_agreement_is_a_matrix_with_its_numbers(stored_atlas: Path) -> None:
    answer = Atlas.open(stored_atlas).agreement(pairs=True, source="text", reduce="contrast")
    axis = drawn("agreement", answer)
    names = labels(axis)
    texts = {tuple(text.get_position()): text.get_text() for text in axis.texts}
    for row in answer.to_pylist():
        x, y = names.index(row["method"]), names.index(row["other"])
        assert texts[x, y] == texts[y, x] == f"{round(row['correlation'], 2) + 0.0:.2f}"
    assert len(texts) == len(names) * (len(names) - 1)
    overlap = drawn("agreement", answer, measure="overlap")
    assert overlap.get_xlabel() == "overlap of the top 2 % of two methods"
    with_reference = drawn("agreement", Atlas.open(stored_atlas).agreement(source="text"))
    assert with_reference.get_xlabel() == "rank correlation with ablation"


def test_a_neuron_is_its_ranks_and_its_tokens(stored_atlas: Path) -> None:
    profile = Atlas.open(stored_atlas).neuron("1/5", source="text")
    axis = drawn("neuron", profile)
    rows = [row for row in profile.to_pylist() if row["reduce"] == "contrast"]
    for line in axis.get_lines():
        of_method = {row["concept"]: row["rank"] for row in rows if row["method"] == line.get_label()}
        names = [labels(axis)[int(y)] for y in line.get_ydata()]
        assert dict(zip(names, line.get_xdata().tolist(), strict=True)) == of_method
    tokens = axis.figure.axes[1]
    widths = [bar.get_width() for bar in tokens.patches]
    first = profile.tokens.to_pylist()[0]
    assert widths == sorted(widths, reverse=True) and max(widths) == pytest.approx(max(first["values"]))
    with pytest.raises(UsageError, match="no reduction 'median'; there are contrast, mean"):
        drawn("neuron", profile, reduce="median")


def test_the_best_neurons_are_their_scores_with_their_tokens(stored_atlas: Path) -> None:
    found = Atlas.open(stored_atlas).query("dog", source="text", top=8)
    axis = drawn("query", found)
    assert labels(axis) == [str(neuron) for neuron in found.neurons]
    assert axis.get_lines()[0].get_xdata().tolist() == found["score"].to_pylist()
    assert axis.texts[0].get_text().split(" · ")[0] == found["tokens"][0].as_py()[0].strip()
    assert "8 of 128 neurons" in axis.get_title() and axis.get_xlabel() == "score by contribution"
    voted = Atlas.open(stored_atlas).query("dog", methods=("contribution", "activation"), agree=1, top=8)
    assert drawn("query", voted).get_xlabel() == "mean percentile over 2 maps"


def test_scores_stand_beside_what_chance_gives() -> None:
    address = {"component": "language", "layer": 3, "rank": 1, "tokens": ["dog"]}
    rows = [address | {"neuron": n, "score": 0.3 - 0.1 * n, "null_score": 0.05 * n or None} for n in range(3)]
    axis = drawn("query", Answer(pa.Table.from_pylist(rows), {"maps": []}))
    scores, chance = axis.get_lines()
    assert scores.get_xdata() == pytest.approx([0.3, 0.2, 0.1])
    assert chance.get_xdata() == pytest.approx([np.nan, 0.05, 0.1], nan_ok=True)
    assert chance.get_label() == "by chance (null_score)" and axis.figure.legends


def test_a_matrix_of_concepts_has_counts_below_and_lifts_above(stored_atlas: Path) -> None:
    answer = Atlas.open(stored_atlas).concept_matrix(method="contribution", source="text", top=10)
    axis = drawn("concept_matrix", answer)
    [row] = answer.to_pylist()
    assert labels(axis) == answer.facts["concepts"]
    image = axis.get_images()[0].get_array()
    assert image[0, 1] == image[1, 0] == pytest.approx(row["lift_matched"])
    assert {text.get_text() for text in axis.texts} == {str(row["shared"]), f"{row['lift_matched']:.1f}"}
    assert len(framed(axis)) == (2 if row["q_matched"] <= 0.05 else 0)


def test_several_sets_are_bars_over_the_sets_that_they_are_in(stored_atlas: Path) -> None:
    methods = ("contribution", "activation", "ablation")
    answer = Atlas.open(stored_atlas).overlap("dog", methods=methods, source="text", top=10)
    axis = drawn("overlap", answer)
    rows = answer.to_pylist()
    assert [bar.get_height() for bar in axis.patches] == [row["neurons"] for row in rows]
    [below] = axis.child_axes
    assert labels(below) == [f"{name} (10)" for name in methods]
    joined = [line for line in below.get_lines() if line.get_linestyle() == "-"]
    assert [[methods[int(y)] for y in line.get_ydata()] for line in joined] == [row["sets"] for row in rows]


def test_measures_of_layers_are_lines_beside_their_chance() -> None:
    axis = drawn("measures", measure_rows())
    lines = {line.get_label(): line for line in axis.get_lines() if not line.get_label().startswith("_")}
    assert lines["image"].get_ydata().tolist() == pytest.approx([0.05, 0.15, 0.25])
    assert {"as it is", "with the edit", "without random neurons", "chance"} <= set(lines)
    dotted = [line for line in axis.get_lines() if line.get_linestyle() == ":" and len(line.get_xdata())]
    assert [line.get_ydata().tolist() for line in dotted] == [[0.5] * 3] * 2
    assert axis.get_title() == "image (n = 100)" and axis.get_ylabel() == "knn mixing"


def test_measures_of_concepts_are_points_beside_random_neurons() -> None:
    axis = drawn("measures", property_rows())
    assert labels(axis) == ["dog top 10", "cat top 10"]
    assert points_of(axis) == {"best neurons": [0.8, 0.8], "random neurons": [0.1, 0.1]}
    with pytest.raises(UsageError, match="room for 12 panels, and the answer has 13"):
        drawn("measures", measure_rows([f"measure_{n}" for n in range(13)]))


def test_roles_are_points_beside_all_neurons_of_the_same_layers() -> None:
    answer = role_rows(("modality_profile.share", "miner.prob"))
    axis = drawn("roles", answer)
    assert labels(axis) == ["text", "special", "image"]
    found = points_of(axis)
    assert found["these neurons"] == pytest.approx([0.6, 0.4])  # the last is not known
    assert found["all of the same layers"] == pytest.approx([0.3] * 3)
    assert intervals_of(axis, "these neurons")[0] == pytest.approx((0.5, 0.7))
    assert axis.get_title(loc="center") == "dogs & not cats (n = 5 neurons)"
    shown = [panel.get_xlabel() for panel in axis.figure.axes]
    assert shown == ["share of the neuron's mean |activation|", "MINER's prob"]
    with pytest.raises(UsageError, match="2 panels"):
        drawn("roles", answer, ax=plt.subplots()[1])


def test_matches_are_their_similarities_beside_chance() -> None:
    axis = drawn("match", match_rows())
    assert labels(axis) == ["1/0 → 0/10", "1/1 → 0/11", "1/2 → 0/12"]
    by_label = {line.get_label(): line for line in axis.get_lines()}
    assert by_label["mutual, p ≤ 0.05"].get_xdata() == pytest.approx([0.9])
    assert by_label["mutual, p > 0.05"].get_markerfacecolor() == "white"
    assert by_label["not mutual, p > 0.05"].get_xdata() == pytest.approx([0.8])
    assert by_label["best by chance, mean of draws"].get_xdata() == pytest.approx([0.7] * 3)
    assert axis.get_title(loc="center") == "n = 3 concepts of both"
    assert axis.texts[0].get_text() == "dog · '\\n'"


def test_found_neurons_are_their_matches_of_words(stored_atlas: Path) -> None:
    answer = search_rows()
    axis = drawn("search", answer)
    assert axis.get_lines()[0].get_xdata().tolist() == answer["match"].to_pylist()
    assert labels(axis)[0] == "3/0 cat" and axis.get_ylabel() == "neuron, its\nbest concept"
    asked = Atlas.open(stored_atlas).search("what the dog does", top=3)
    assert asked.plot().get_title() == f"'what the dog does', n = {len(asked)} neurons"


def test_labels_are_bars_or_lines_over_the_layers() -> None:
    axis = drawn("labels", label_rows())
    assert [bar.get_width() for bar in axis.patches] == [20, 1500]
    assert labels(axis) == ["text, by miner LA_MU 0.02 (0a1b)", "image, by lape (1a1b)"]
    assert [text.get_text().strip() for text in axis.texts] == ["20", "1,500"]
    axis = drawn("labels", label_layers())
    by_label = {line.get_label(): line.get_ydata() for line in axis.get_lines()}
    found = {name: list(values) for name, values in by_label.items()}
    assert found["image (n = 7)"] == [3, 4, 0] and found["text (n = 7)"] == [2, 0, 5]
    assert found["text, also another (1)"] == [1, 0, 0]
    address = {"component": "language", "layer": 3, "neuron": 4, "label": "image", "score": 0.5, "tokens": None}
    axis = drawn("labels", Answer(pa.Table.from_pylist([address])))
    assert labels(axis) == ["3/4 image"] and axis.get_xlabel() == "score of the label's rule"
    with pytest.raises(UsageError, match="no labels"):
        drawn("labels", Answer(pa.table({"x": [1]})))


def test_every_answer_of_runs_names_them(stored_atlas: Path) -> None:
    atlas = Atlas.open(stored_atlas)
    [run] = {row["run"] for row in atlas.runs().to_pylist()}
    for answer in (
        atlas.agreement(),
        atlas.agreement(pairs=True),
        atlas.leaderboard(),
        atlas.neuron("1/5"),
        atlas.search("dog"),
    ):
        assert _style.caption(answer) == f"run {run}", answer.question
    assert "runs" not in atlas.leaderboard().table.column_names
    assert (
        _style.caption(match_rows()) == "runs cccccccc, dddddddd" and _style.caption(label_layers()) == "run eeeeeeee"
    )
    labelled: Any = {"labels": {"run_id": "f" * 64, "label": None}}
    assert _style.caption(Answer(pa.table({"n": [1]}), labelled)) == "run ffffffff"


def test_tokens_are_points_by_role_with_the_distances_of_their_centroids() -> None:
    answer = point_rows(("pca", "tsne"))
    first, second = drawn("points", answer).figure.axes
    [image, text] = first.get_lines()
    assert image.get_xdata().tolist() == pytest.approx([0, 0.1, 0.2, 0.3, 0.4]) and text.get_label() == "text"
    assert first.get_xlabel() == "pca 1\ndistances of centroids\ntext to image: 0.25, random 0.24"
    assert first.get_title() == "image, layer 4 (n = 10 tokens)" and second.get_ylabel() == "tsne 2"
    with pytest.raises(UsageError, match="2 panels .*image, pca; image, tsne"):
        drawn("points", answer, ax=plt.subplots()[1])


def test_tokens_before_and_with_an_edit_stand_below_each_other() -> None:
    answer = point_rows(("umap", "pca", "tsne"), ("edit", "before"))
    axes = drawn("points", answer).figure.axes
    assert [axis.get_ylabel() for axis in axes] == ["pca 2", "tsne 2", "umap 2"] * 2
    titles = [axis.get_title() for axis in axes]
    assert titles[0] == "image, layer 4, before (n = 10 tokens)" and titles[5].startswith("image, layer 4, edited")
    assert axes[0].get_xlabel() == "pca 1\ndistances of centroids\ntext to image: 0.25"
    assert axes[1].get_xlabel() == "tsne 1"
    assert axes[3].get_xlabel() == "pca 1\ndistances of centroids\ntext to image: 0.50, random 0.24"
    assert axes[0].get_xlim() == axes[3].get_xlim() and axes[0].get_ylim() == axes[3].get_ylim()


def test_doses_say_over_how_many_concepts() -> None:
    axis = drawn("dose_response", dose_rows())
    assert axis.get_title() == "text questions (n = 7 concepts)"
    by_label = {line.get_label(): line for line in axis.get_lines()}
    assert by_label["contribution: concept"].get_ydata().tolist() == pytest.approx([60, 30])
    assert by_label["as many random: concept"].get_ydata().tolist() == pytest.approx([95, 95])


def test_the_caption_names_the_runs_of_sets_that_were_combined() -> None:
    left, right = ({"maps": [{"run_id": name * 8}]} for name in "ab")
    answer = Answer(pa.table({"n": [1]}), {"set": "and", "left": left, "right": right})  # type: ignore[arg-type]
    assert _style.caption(answer) == "runs aaaaaaaa, bbbbbbbb"


def test_what_is_not_measured_is_not_drawn() -> None:
    from atlas.figures._parts import points

    axis = plt.subplots()[1]
    points(axis, [0.5, None, 0.7], [0.4, None, None], [0.6, None, None], [0, 1, 2], label="some")
    assert points_of(axis) == {"some": [0.5, 0.7]}
    assert np.allclose(intervals_of(axis, "some"), [(0.4, 0.6), (0.7, 0.7)])
    points(axis, [None], [None], [None], [0], label="none")
    assert list(points_of(axis)) == ["some"]


def test_long_names_many_methods_and_other_scripts_are_inside() -> None:
    methods = [f"integrated_gradients_{n}" for n in range(13)]
    pair = {"source": "image", "target": "text", "reduce": "contrast", "correlation": -0.001, "concepts": 3}
    rows = [pair | {"method": a, "other": b} for a in methods for b in methods if a < b]
    axis = drawn("agreement", Answer(pa.Table.from_pylist(rows)))
    assert {text.get_text() for text in axis.texts} == {"0.00"}  # no minus before zeros
    names = [f"a concept of several words {n}" for n in range(30)]
    drawn("shared", many_shared(names))
    of_pair = {"shared": 3, "lift_matched": 2.0, "q_matched": 0.01}
    rows = [of_pair | {"concept": a, "other": b} for a in names for b in names if a < b]
    facts = {"concepts": names, "matched": "layer and mean |activation|", "top": 40}
    axis = drawn("concept_matrix", Answer(pa.Table.from_pylist(rows), facts=facts))
    assert len(framed(axis)) == 30 * 29 and axis.get_images()[0].colorbar is not None
    assert not axis.texts and axis.get_title() == "lift over neurons\nof the same layer and mean |activation|"
    drawn("cross_ablation", cross_rows(names, "log_probability"))
    drawn("effects", effects(("*", "what_is_this_in_the_picture"), ("accuracy", "region_overlap")))
    address = {"component": "language", "layer": 31, "neuron": 10999, "score": 1000.0, "rank": 1}
    row = address | {"tokens": ["\u4f60", "\n\n", " $x$"]}
    axis = drawn("query", Answer(pa.Table.from_pylist([row]), {"maps": []}))
    assert axis.texts[0].get_text() == "\\u4f60 · '\\n\\n' · $x$"


@pytest.mark.filterwarnings("error")
def test_names_are_drawn_with_signs_that_the_font_has(tmp_path: Path) -> None:
    names = ["\u72d7", "$x$", "<b>", "dog"]
    pairs = [{"concept": a, "other": b} for a in names for b in names if a < b]
    rows = [pair | {"shared": 3, "lift_matched": 2.0, "q_matched": 0.01} for pair in pairs]
    matrix = Answer(pa.Table.from_pylist(rows), facts={"concepts": names, "matched": "layer", "top": 40})
    sets = {"sets": names, "degree": 4, "neurons": 3, "expected": 0.1}
    several = Answer(pa.Table.from_pylist([sets]), facts={"sizes": dict.fromkeys(names, 40), "total": 2048})
    layers = [{"set": name, "count": 3, "layer": 0, "component": "language", "null_low": 1} for name in names]
    figures = {
        "concept_matrix": matrix,
        "cross_ablation": cross_rows(names),
        "layers": Answer(pa.Table.from_pylist([row | {"null_high": 5} for row in layers])),
        "overlap": several,
        "shared": many_shared(names),
    }
    for name, answer in figures.items():
        figure = drawn(name, answer).figure
        _style.save(figure, tmp_path / f"{name}.svg")
        assert "\\u72d7" in (tmp_path / f"{name}.svg").read_text(), name


def test_series_of_one_panel_differ_in_grey() -> None:
    from atlas.figures._parts import LINES, MARKERS, series

    looks = [(series(place)["marker"], LINES[place]) for place in range(len(_style.COLOURS))]
    assert len(set(MARKERS)) == len(looks) == len(set(looks))
