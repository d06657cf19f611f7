"""Dose-response against the stored effects, and the picture of it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from atlas import Atlas
from atlas.errors import UsageError
from atlas.questions import dose_response as questions_of_doses
from atlas.questions import leaderboard as questions_of_methods
from atlas.questions.dose_response import DoseResponse
from atlas.stats import dose_response
from atlas.stats.intervals import of_values
from atlas.stats.leaderboard import of_metric
from atlas.store.database import open_readonly
from cli.main import main
from ingest.evaluate.methods import ablate_tops
from ingest.job import Execution, Job

PLACE = ("method", "dose", "source")
DOSES = ("1%", "5%", "20%", "40")


@pytest.fixture(scope="module")
def surveyed(stored_atlas: Path, small_job: Job, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import shutil

    path = Path(shutil.copytree(stored_atlas, tmp_path_factory.mktemp("doses") / "doses.atlas"))
    job = replace(small_job, split="held_out", per_concept=2)
    ablate_tops(path, job, Execution(), methods=["contribution", "random"], tops=DOSES, seeds=2)
    return path


@pytest.mark.parametrize("metric", ["accuracy", "log_probability"])
def test_every_dose_is_the_mean_over_concepts(surveyed: Path, metric: str) -> None:
    found = Atlas(surveyed).dose_response(metric=metric)
    rows = found.to_pylist()
    assert all("=" in default for default in found.defaults)
    assert len(rows) == 2 * 2 * len(DOSES)
    with open_readonly(surveyed) as connection:
        query = "SELECT * FROM effects WHERE metric = $metric AND task = '*'"
        stored = connection.sql(query, params={"metric": metric}).to_arrow_table().to_pylist()
    before = {
        (e["edit"], e["source"], e["subset"]): e["value"] if metric == "log_probability" else 0.0
        for e in stored
        if e["condition"] == "before"
    }
    for row in rows:
        for name, subset, condition in (("own", "concept", "edit"), ("random_others", "others", "random")):
            values = [
                e["value"] - before[e["edit"], e["source"], e["subset"]]
                for e in stored
                if e["edit"] == f"{row['method']}:{row['dose']}:{row['reduce']}:{e['concept']}"
                and (e["source"], e["subset"], e["condition"]) == (row["source"], subset, condition)
            ]
            assert len(values) == row["concepts"] == 2
            assert row[name] == pytest.approx(np.mean(values))
            if name == "own":
                assert row["own_low"] is None and row["own_high"] is None  # of two concepts
        for name, subset in (("own_less_random", "concept"), ("others_less_random", "others")):
            of_dose = [e for e in stored if (e["method"], e["dose"], e["source"]) == tuple(map(row.get, PLACE))]
            values = {(e["concept"], e["condition"]): e["value"] for e in of_dose if e["subset"] == subset}
            differences = [values[c, "edit"] - values[c, "random"] for c, condition in values if condition == "edit"]
            assert row[name] == pytest.approx(np.mean(differences), abs=1e-6) and len(differences) == 2
            assert row[f"{name}_low"] is None
    assert [r["neurons"] for r in rows[: len(DOSES)]] == [1, 6, 26, 40]
    assert rows[3]["share"] == pytest.approx(40 / 128)


def test_differences_from_random_neurons_have_an_interval_of_the_pairs() -> None:
    values = [-0.9, -0.7, -0.8, -0.4]
    row = {"metric": "accuracy", "own_less_random_each": values, "others_less_random_each": None}
    found = dose_response._less_random(row)
    interval = of_values(values, (-1.0, 1.0))
    assert found["own_less_random"] == pytest.approx(-0.7)
    assert (found["own_less_random_low"], found["own_less_random_high"]) == (interval.low, interval.high)
    assert found["others_less_random"] is found["others_less_random_low"] is None


def test_what_is_told_is_of_the_answer_alone(surveyed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model or dataset that was asked first, and had no answer, is not told of."""

    def twice(connection: Any, spec: Any, ask: Any) -> Any:
        ask(spec)
        return ask(spec), ()

    for module in (questions_of_doses, questions_of_methods):
        monkeypatch.setattr(module, "of_effects", twice)
    for answer in (Atlas(surveyed).dose_response(), Atlas(surveyed).leaderboard()):
        told = [text for text in answer.defaults if text.startswith("metric=")]
        assert len(told) == len(set(told)) == 2


def test_the_metric_is_the_one_that_can_move(surveyed: Path) -> None:
    found = Atlas(surveyed).dose_response()
    assert {row["metric"] for row in found.to_pylist()} == {"log_probability"}, "an untrained model is never right"
    assert any(d.startswith("metric=log_probability of text (the unedited model has") for d in found.defaults)
    rows = [
        {"source": source, "metric": metric, "own_before": before}
        for source, values in (("text", (0.8, -0.1)), ("image", (0.2, -3.0)))
        for metric, before in zip(("accuracy", "log_probability"), values, strict=True)
    ]
    chosen, notes = of_metric(rows, None)
    assert [(r["source"], r["metric"]) for r in chosen] == [("text", "accuracy"), ("image", "log_probability")]
    assert notes == ["metric=log_probability of image (the unedited model has 20% right)"]
    assert of_metric(rows, "accuracy") == ([rows[0], rows[2]], [])
    with pytest.raises(UsageError, match="metric is accuracy or log_probability, not 'kl'"):
        Atlas(surveyed).dose_response(metric="kl")
    with pytest.raises(UsageError, match="metric is accuracy or log_probability, not 'kl'"):
        Atlas(surveyed).leaderboard(metric="kl")


def test_the_doses_of_one_concept_are_its_own_effects(surveyed: Path) -> None:
    opened = Atlas(surveyed)
    rows = opened.dose_response("dog", "contribution", metric="accuracy").to_pylist()
    with open_readonly(surveyed) as connection:
        stored = connection.sql(
            "SELECT * FROM effects WHERE metric = 'accuracy' AND task = '*' AND concept = 'dog' "
            "AND subset = 'concept' AND condition = 'edit'"
        ).to_arrow_table()
    own = {(e["method"], e["source"], e["dose"]): e["value"] for e in stored.to_pylist()}
    assert len(rows) == 2 * len(DOSES) and {r["concepts"] for r in rows} == {1}
    assert [r["own"] for r in rows] == [own["contribution", r["source"], r["dose"]] for r in rows]
    with pytest.raises(UsageError, match="no stored concept called 'dgo'"):
        opened.dose_response("dgo")


def test_one_method_and_source(surveyed: Path) -> None:
    rows = Atlas(surveyed).dose_response(method="contribution", source="text").to_pylist()
    assert {(r["method"], r["source"]) for r in rows} == {("contribution", "text")} and len(rows) == len(DOSES)
    with pytest.raises(UsageError, match="no stored method called 'contributoin'; did you mean 'contribution'"):
        Atlas(surveyed).dose_response(method="contributoin")


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_the_picture_is_drawn(surveyed: Path, tmp_path: Path, ending: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / f"doses.{ending}"
    assert main(["plot", "dose-response", "--out", str(out), "--json", "--atlas", str(surveyed)]) == 0
    said = capsys.readouterr().out
    assert said.strip().endswith(str(out)) and out.stat().st_size > 10_000
    if ending == "png":
        from PIL import Image

        with Image.open(out) as picture:
            assert len(set(picture.convert("RGB").resize((60, 25)).get_flattened_data())) > 5  # not an empty page
    else:
        text = out.read_text(encoding="utf-8")
        assert "<svg" in text and text.count("<path") > 20


def test_what_cannot_be_drawn_is_said_before_anything_is_read(
    empty_atlas: Path,
    surveyed: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def said(*arguments: str, code: int) -> str:
        assert main(["plot", "dose-response", *arguments]) == code
        return capsys.readouterr().err

    at = ("--atlas", str(surveyed))
    assert "ends in .png" in said("--out", "doses.gif", *at, code=2)
    find: Callable[..., object] = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "matplotlib" else find(name, *a))
    assert "pip install 'neuron-atlas[plots]'" in said("--out", "doses.png", *at, code=5)
    assert said("--json", "--metric", "accuracy", *at, code=0) == ""


def test_no_doses_yet(stored_atlas: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plot", "dose-response", "--atlas", str(stored_atlas)]) == 2
    assert "`atlas evaluate --method contribution --doses" in capsys.readouterr().err


def test_an_answer_without_rows_is_not_drawn(surveyed: Path) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(UsageError, match="the answer has no rows; there is nothing to draw"):
        Atlas(surveyed).dose_response(source="text")[:0].plot()


def test_the_help_shows_a_command_line_that_draws(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plot", "dose-response", "--help"]) == 0
    [asked] = DoseResponse.examples
    assert asked.replace("atlas ", "atlas plot ", 1) in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("by", ["selectivity", "suppression", "retention", "correlation"])
def test_the_leaderboard_is_in_the_order_asked(surveyed: Path, by: str) -> None:
    rows = Atlas(surveyed).leaderboard(by=by, source="text").to_pylist()
    effects = {"suppression": ("own", -1), "retention": ("others", 1)}

    def value(row: dict[str, object]) -> float:
        if by not in effects:
            return -2.0 if row[by] is None else float(row[by])  # type: ignore[arg-type]
        name, sign = effects[by]
        some = row["effects"]
        return -2.0 if not some else sign * float(np.mean([e[name] for e in some]))  # type: ignore[attr-defined]

    values = [value(row) for row in rows]
    assert len(rows) > 2 and values == sorted(values, reverse=True)
    with pytest.raises(UsageError, match="by is one of selectivity, .* not 'speed'"):
        Atlas(surveyed).leaderboard(by="speed")


def test_doses_of_other_concepts_are_not_mixed_in(surveyed: Path, small_job: Job, tmp_path: Path) -> None:
    """A later run of one concept alone is not set beside earlier ones of two, nor in their place."""
    import shutil

    path = Path(shutil.copytree(surveyed, tmp_path / "mixed.atlas"))
    job = replace(small_job, split="held_out", per_concept=2, concepts=("dog",))
    ablate_tops(path, job, Execution(), methods=["contribution"], tops=["1%"], seeds=0)
    found = Atlas(path).dose_response(method="contribution", source="text")
    assert [r["concepts"] for r in found.to_pylist()] == [2] * len(DOSES)
    assert any("of 2 concepts; a newer run, " in note and "has 1" in note for note in found.defaults)
    others = Atlas(path).dose_response(method="random", source="text").to_pylist()
    assert [r["concepts"] for r in others] == [2] * len(DOSES)


def test_what_was_not_measured_is_not_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from atlas.figures.dose_response import _values, draw
    from atlas.query.answer import Answer

    of_answers = [{"own": None, "metric": "accuracy"}, {"own": 0.25, "metric": "accuracy"}]
    assert np.isnan(_values(of_answers, "own")[0]) and _values(of_answers, "own")[1] == 25
    assert _values([{"own": -3.5, "metric": "log_probability"}], "own") == [-3.5]
    row = {
        "source": "text",
        "method": "contribution",
        "reduce": "mean",
        "metric": "accuracy",
        "share": 0.01,
        "own": 0.5,
        "own_low": None,
        "own_high": None,
    }
    row |= {"others": None, "random_own": None, "concepts": 2}
    answer = Answer(pa.Table.from_pylist([row, {**row, "share": 0.02, "reduce": "contrast"}]))
    draw(answer).figure.savefig(tmp_path / "few.svg")
    text = (tmp_path / "few.svg").read_text(encoding="utf-8")
    assert text.count("<!-- contribution (mean)") == 2 and text.count("<!-- contribution (contrast)") == 2
