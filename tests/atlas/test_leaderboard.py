"""The leaderboard against the same numbers computed from the tables one by one."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import spearmanr

from atlas import Atlas
from atlas.errors import UsageError
from atlas.query.amount import count_of
from atlas.store import arrow_types, engine, run_loader, schema
from atlas.store.database import open_readonly
from ingest.evaluate.methods import ablate_tops
from ingest.job import Execution, Job

METHODS = ("contribution", "activation", "gradient_x_activation", "random")


@pytest.fixture
def surveyed(own_atlas: Path, small_job: Job) -> Path:
    job = replace(small_job, split="held_out", per_concept=2)
    ablate_tops(own_atlas, job, Execution(), methods=["contribution", "activation"], tops=["5%", "20"], seeds=1)
    return own_atlas


@pytest.mark.parametrize("metric", ["accuracy", "log_probability"])
def test_every_number_equals_the_one_from_the_tables(surveyed: Path, metric: str) -> None:
    found = {(r["method"], r["source"]): r for r in Atlas(surveyed).leaderboard(metric=metric).to_pylist()}
    assert set(found) == {(m, s) for m in METHODS for s in ("image", "text")}
    with open_readonly(surveyed) as connection:
        query = "SELECT * FROM effects WHERE metric = $metric AND task = '*'"
        effects = connection.sql(query, params={"metric": metric}).to_arrow_table()
        scores = connection.sql(
            """SELECT m.method, m.source, m.reduce, c.name AS concept, s.layer, s.neuron, s.score FROM scores s
            JOIN maps m USING (map_id) JOIN concepts c USING (concept_id)"""
        ).to_arrow_table()
    rows, cells = effects.to_pylist(), scores.to_pylist()
    before = {(r["edit"], r["source"], r["subset"]): r["value"] for r in rows if r["condition"] == "before"}
    for row in rows:
        if metric == "log_probability" and row["condition"] != "before":
            row["value"] -= before[row["edit"], row["source"], row["subset"]]
    for (method, source), row in found.items():
        correlations, precisions = [], []
        for concept in ("cat", "dog"):
            by_neuron = [
                {
                    (c["layer"], c["neuron"]): c["score"]
                    for c in cells
                    if (c["method"], c["source"], c["concept"], c["reduce"]) == (name, source, concept, row["reduce"])
                }
                for name in (method, "ablation")
            ]
            mine, theirs = (np.array([scored[n] for n in sorted(scored)]) for scored in by_neuron)
            correlations.append(spearmanr(mine, theirs).statistic)
            tops = [set(np.argsort(-x, kind="stable")[:3].tolist()) for x in (mine, theirs)]  # 2 % of 128
            precisions.append(len(tops[0] & tops[1]) / 3)
        assert row["correlation"] == pytest.approx(np.mean(correlations), abs=1e-4)
        assert row["precision_2"] == pytest.approx(np.mean(precisions))
        for effect in row["effects"] or []:
            for name, subset, condition in (
                ("own", "concept", "edit"),
                ("others", "others", "edit"),
                ("random_own", "concept", "random"),
                ("others_before", "others", "before"),
            ):
                values = [
                    r["value"]
                    for r in rows
                    if r["edit"] == f"{method}:{effect['top']}:{row['reduce']}:{r['concept']}"
                    and (r["source"], r["subset"], r["condition"]) == (source, subset, condition)
                ]
                assert effect[name] == pytest.approx(np.mean(values))
        assert row["reduce"] == ("mean" if method == "random" else "contrast") and row["ranked"] == 2
        if method in ("gradient_x_activation", "random"):
            assert row["effects"] is None and row["selectivity"] is None and row["ablated"] is None
        else:
            assert row["ablated"] == 2
            assert [e["top"] for e in row["effects"]] == ["5%", "20"]
            gaps = [e["others"] - e["own"] for e in row["effects"]]
            assert row["selectivity"] == pytest.approx(np.mean(gaps))


def test_how_many_neurons_a_share_is() -> None:
    assert [count_of(text, 2048) for text in ("40", "0.5%", "1%", "0.001%", "100%")] == [40, 10, 20, 1, 2048]
    for wrong in ("0", "-3", "0%", "120%", "many", "1.5", "abc%", "inf%", "nan%"):
        with pytest.raises(UsageError, match="write 40, or 2%"):
            count_of(wrong, 2048)


Own = dict[tuple[str, str, str], dict[str, float]]
"""(method, number of neurons, reduction) -> concept -> accuracy left on it."""


@pytest.fixture
def measure(empty: Path, make_run: Callable[..., Any], store_maps: Callable[..., None]) -> Callable[..., Path]:
    """Store maps of two methods and exact ablation, by contrast and by mean, and the effects of one survey."""

    def call(seed: int, own: Own, *, dataset: str = "scenes", maps: bool = False, old_labels: bool = False) -> Path:
        concepts = sorted({c for by_concept in own.values() for c in by_concept})
        for i, reduce in enumerate(("contrast", "mean") if maps else ()):
            run = make_run(seed + i, concepts=tuple(concepts))
            run.head["dataset"]["name"] = dataset
            drawn = np.random.default_rng(seed).random((3, 40))
            scores = [{(0, n): float(v) for n, v in enumerate(values)} for values in drawn]
            methods = ("ablation", "contribution", "activation")
            by_method = {m: dict.fromkeys(concepts, s) for m, s in zip(methods, scores, strict=True)}
            store_maps(empty, run, by_method, reduce=reduce)
        run = make_run(seed + 10, concepts=tuple(concepts))
        run.head["dataset"]["name"] = dataset
        run.head["run"]["kind"] = "evaluate"
        pattern = {"run_id": run.run_id, "source": "text", "task": "*", "metric": "accuracy", "low": None, "high": None}
        rows = []
        for label, by_concept in own.items():
            for concept, value in by_concept.items():
                edit = ":".join((*(label[:2] if old_labels else label), concept))
                asked = {"edit": edit, "concept": concept, "examples": 4, "seeds": 1}
                if not old_labels:
                    asked |= {**dict(zip(("method", "dose", "reduce"), label, strict=True)), "target": "text"}
                for subset, condition, left in (
                    *(("concept", "edit", value), ("others", "edit", 0.9), ("concept", "random", 1.0)),
                    *(("others", "random", 1.0), ("concept", "before", 1.0), ("others", "before", 1.0)),
                ):
                    rows.append({**pattern, **asked, "subset": subset, "condition": condition, "value": left})
        effects = pa.Table.from_pylist(rows, schema=arrow_types.arrow_schema(schema.effects))
        with engine.connect_writer(empty) as connection:
            run_loader.load_run(connection, replace(run, tables={"effects": effects}).write(empty))
        return empty

    return call


def by_method(path: Path, **asked: Any) -> dict[str, dict[str, Any]]:
    """The measured rows: what was ablated was found from text, what is ranked from pictures."""
    return {r["method"]: r for r in Atlas.open(path).leaderboard(**asked).to_pylist() if r["source"] == "text"}


def test_effects_are_of_the_reduction_of_their_row(measure: Callable[..., Path]) -> None:
    """A concept's name may have a colon itself."""
    own: Own = {
        ("contribution", "2%", "contrast"): {"dog": 0.1, "hot:dog": 0.3},
        ("contribution", "2%", "mean"): {"dog": 0.6, "hot:dog": 0.8},
        ("activation", "2%", "mean"): {"dog": 0.5, "hot:dog": 0.5},
    }
    path = measure(1, own, maps=True)
    rows = by_method(path)
    assert rows["contribution"]["reduce"] == "contrast" and rows["activation"]["reduce"] == "mean"
    assert [e["own"] for e in rows["contribution"]["effects"]] == [pytest.approx(0.2)]
    assert rows["contribution"]["selectivity"] == pytest.approx(0.7) and rows["contribution"]["ablated"] == 2
    mean = by_method(path, reduce="mean")["contribution"]
    assert mean["reduce"] == "mean" and [e["own"] for e in mean["effects"]] == [pytest.approx(0.7)]


def test_a_ranked_method_has_the_effects_of_its_ranking_alone(surveyed: Path) -> None:
    """`survey` found its neurons by contrast, which is what `reduce` says; by mean nothing was ablated."""
    rows = Atlas(surveyed).leaderboard(reduce="mean").to_pylist()
    assert rows and all(r["reduce"] == "mean" and r["effects"] is None and r["selectivity"] is None for r in rows)


def test_labels_without_a_reduction_are_of_no_row(measure: Callable[..., Path]) -> None:
    path = measure(1, {("contribution", "2%", "contrast"): {"dog": 0.1}}, maps=True, old_labels=True)
    assert by_method(path) == {}


def test_concepts_of_two_surveys_are_never_averaged(measure: Callable[..., Path]) -> None:
    kind = ("contribution", "2%", "contrast")
    measure(1, {kind: {"dog": 0.1, "cat": 0.2}, ("activation", "2%", "contrast"): {"dog": 0.5, "cat": 0.7}}, maps=True)
    path = measure(20, {kind: {"dog": 0.4}})
    rows = by_method(path)  # of the larger one, and the newer is told
    assert (rows["contribution"]["effects"][0]["own"], rows["contribution"]["ablated"]) == (pytest.approx(0.15), 2)
    [told] = Atlas.open(path).leaderboard().defaults
    newer = re.findall("newer run, ([0-9a-f]{8})", told)[0]
    assert told == (
        f"effects of contribution by text: of 2 concepts; a newer run, {newer}, has 1 "
        f"(`atlas use --run {newer}` chooses it)"
    )
    pinned = Atlas.open(path)
    pinned.use(runs=[newer])
    found = pinned.leaderboard()
    [row] = [r for r in found.to_pylist() if r["effects"]]
    assert (row["effects"][0]["own"], row["ablated"]) == (pytest.approx(0.4), 1)
    assert found.defaults == (f"run={newer} (pinned; `atlas use`)",)
    assert (rows["activation"]["effects"][0]["own"], rows["activation"]["ablated"]) == (pytest.approx(0.6), 2)


def test_a_leaderboard_is_of_one_dataset(measure: Callable[..., Path]) -> None:
    kind = ("contribution", "2%", "contrast")
    measure(1, {kind: {"dog": 0.1}, ("activation", "2%", "contrast"): {"dog": 0.3}}, maps=True)
    path = measure(20, {kind: {"dog": 0.5}}, dataset="coco", maps=True)
    found = Atlas.open(path).leaderboard()
    assert found.defaults == ("dataset=coco (also stored: scenes)",)
    assert {r["ranked"] for r in found.to_pylist() if r["source"] == "image"} == {1}
    assert {m: r["effects"][0]["own"] for m, r in by_method(path).items()} == {"contribution": 0.5}
    old = {m: r["effects"][0]["own"] for m, r in by_method(path, dataset="scenes").items()}
    assert old == {"contribution": pytest.approx(0.1), "activation": pytest.approx(0.3)}


def test_selectivity_is_over_the_numbers_that_all_methods_have(measure: Callable[..., Path]) -> None:
    own: Own = {
        ("contribution", "1%", "contrast"): {"dog": 0.8},
        ("contribution", "2%", "contrast"): {"dog": 0.2},
        ("contribution", "4%", "contrast"): {"dog": 0.0},
        ("activation", "2%", "contrast"): {"dog": 0.5},
        ("activation", "1%", "contrast"): {"dog": 0.9},
    }
    rows = by_method(measure(1, own, maps=True))
    assert [e["top"] for e in rows["contribution"]["effects"]] == ["1%", "2%", "4%"]
    assert rows["contribution"]["selectivity"] == pytest.approx((0.1 + 0.7) / 2)
    assert rows["activation"]["selectivity"] == pytest.approx((0.0 + 0.4) / 2)
    apart = measure(20, {("gradient", "7%", "contrast"): {"dog": 0.2}})
    assert {r["selectivity"] for r in by_method(apart).values()} == {None}  # no number is common


def test_the_reference_must_be_stored(measure: Callable[..., Path]) -> None:
    atlas = Atlas.open(measure(1, {("contribution", "2%", "contrast"): {"dog": 0.1}}, maps=True))
    with pytest.raises(UsageError, match="no stored method called 'activaton'; did you mean 'activation'"):
        atlas.leaderboard("activaton")
    ranked = {r["method"] for r in atlas.leaderboard("activation").to_pylist() if r["source"] == "image"}
    assert ranked == {"ablation", "contribution"}
