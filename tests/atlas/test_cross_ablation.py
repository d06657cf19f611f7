"""Cross ablation against ablations by hand, and its statistic against every permutation."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from atlas import Atlas
from atlas.errors import UsageError
from atlas.maintain.check import check
from atlas.stats.cross_ablation import DRAWS, diagonal_dominance
from atlas.store import arrow_types, engine, run_loader, schema
from ingest.evaluate.methods import ablate_tops, averages
from ingest.job import Execution, Job

NAMES = ("bird", "cat", "dog", "fish", "horse")


@pytest.fixture(scope="module")
def held_out(small_job: Job) -> Job:
    return replace(small_job, split="held_out", per_concept=4)


@pytest.fixture(scope="module")
def evaluated(stored_atlas: Path, held_out: Job, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = Path(shutil.copytree(stored_atlas, tmp_path_factory.mktemp("cross") / "cross.atlas"))
    ablate_tops(path, held_out, Execution(), methods=["contribution"], tops=["10", "5%"], seeds=2)
    return path


def asked_by_hand(path: Path, job: Job, llava: Any, concept: str) -> dict[str, list[tuple[float, float]]]:
    """The log-probabilities before and with a concept's ten best neurons at zero, by the concept that is asked about;
    without the questions about another concept in examples that mention the ablated one."""
    from atlas.edits.edit import Intervention
    from atlas.edits.kinds import ablate, make_changes
    from atlas.live.edit.apply import changing
    from ingest.evaluate.teacher_forced import LOG_PROBABILITY, TeacherForced
    from ingest.job import open_dataset
    from ingest.run import prepare
    from ingest.run.encode_examples import ExampleEncoder
    from ingest.run.resolve import complete

    dataset = open_dataset(job)
    job = replace(complete(job, dataset, frozenset({"image", "text"})), sources=("image",))
    neurons = list(Atlas.open(path).query(concept, "contribution", source="image", top=10))
    evaluator = TeacherForced(ExampleEncoder(llava, dataset, job), prepare.collect(job, dataset), 16)
    before = evaluator.evaluate()
    with changing(llava, Intervention(make_changes(neurons, ablate()))):
        edited = evaluator.evaluate()
    found: dict[str, list[tuple[float, float]]] = {}
    values = (scores.values[LOG_PROBABILITY] for scores in (before, edited))
    for question, *both in zip(before.questions, *values, strict=True):
        if question.concept == concept or concept not in question.mentioned:
            found.setdefault(question.concept, []).append((float(both[0]), float(both[1])))
    return found


def test_every_cell_is_the_change_by_hand(evaluated: Path, held_out: Job, llava: Any) -> None:
    answer = Atlas.open(evaluated).cross_ablation(dose="10", source="image", metric="log_probability")
    rows = {(row["ablated"], row["asked"]): row for row in answer.to_pylist()}
    assert set(rows) == {(a, b) for a in ("cat", "dog") for b in ("cat", "dog")}
    for ablated in ("cat", "dog"):
        by_hand = asked_by_hand(evaluated, held_out, llava, ablated)
        assert set(by_hand) == {"cat", "dog"}
        for asked, pairs in by_hand.items():
            row, (before, edited) = rows[ablated, asked], np.mean(pairs, axis=0)
            assert row["n"] == len(pairs) and row["seeds"] == 2
            assert row["before"] == pytest.approx(before, abs=1e-5)
            assert row["effect"] == pytest.approx(edited - before, abs=1e-5) and abs(row["effect"]) > 1e-4
            assert row["random"] not in (None, row["effect"])
    own, others = (np.mean([r["effect"] for (a, b), r in rows.items() if (a == b) is same]) for same in (True, False))
    assert answer.facts["dominance"] == pytest.approx(own - others)
    assert answer.facts["p"] is None and "cannot tell from 2 concepts" in answer.notes[-1]
    assert check(evaluated) == []


def test_the_other_concepts_together_are_the_others(evaluated: Path) -> None:
    """Every stored cell of `others` is the mean of its concepts by their questions, and no average has them twice."""
    rows = [row for row in Atlas.open(evaluated).effects().to_pylist() if row["task"] == "*"]
    others = [row for row in rows if row["subset"] == "others" and row["metric"] in ("accuracy", "log_probability")]
    names = ("edit", "source", "condition", "metric")
    for row in others:
        apart = [r for r in rows if r["subset"].startswith("about:") and all(r[n] == row[n] for n in names)]
        counts = [r["examples"] for r in apart]
        assert sum(counts) == row["examples"] > 0 and f"about:{row['concept']}" not in {r["subset"] for r in apart}
        assert np.average([r["value"] for r in apart], weights=counts) == pytest.approx(row["value"], abs=1e-6)
    assert len(others) == 2 * 2 * 2 * 3 * 2  # concepts, doses, sources, conditions, metrics
    assert {row["subset"] for row in averages(rows).to_pylist()} == {"concept", "others"}


def test_what_was_chosen_is_said_and_what_is_missing_refused(evaluated: Path, stored_atlas: Path) -> None:
    atlas = Atlas.open(evaluated)
    answer = atlas.cross_ablation()
    assert {row["dose"] for row in answer.to_pylist()} == {"10"}
    assert any(note.startswith("dose=10 (also stored: 5%)") for note in answer.defaults)
    assert any(note.startswith("source=image (also stored: text)") for note in answer.defaults)
    assert {row["dose"] for row in atlas.cross_ablation(dose="5%").to_pylist()} == {"5%"}
    for asked in ({"dose": "7"}, {"method": "activation"}):
        with pytest.raises(UsageError, match="no evaluation like this"):
            atlas.cross_ablation(**asked)
    with pytest.raises(UsageError, match="no evaluation like this"):
        Atlas.open(stored_atlas).cross_ablation()
    with pytest.raises(UsageError, match="no stored method called 'contributoin'"):
        atlas.cross_ablation("contributoin")
    with pytest.raises(UsageError, match="metric is accuracy or log_probability"):
        atlas.cross_ablation(metric="kl")


def rounded(value: Any) -> Any:
    """Without the last digits of floats, in which parallel sums differ from call to call."""
    if isinstance(value, float):
        return round(value, 9)
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    return [rounded(inner) for inner in value] if isinstance(value, list) else value


def test_other_questions_answer_as_without_these_effects(evaluated: Path, tmp_path: Path) -> None:
    """As of an atlas from before they were stored, which is told what to do."""
    older = Path(shutil.copytree(evaluated, tmp_path / "older.atlas"))
    with engine.connect_writer(older) as connection:
        connection.exec_driver_sql("DELETE FROM effects WHERE starts_with(subset, 'about:')")
    where = "effect.retention > -1 and effect.suppression > -1"
    for metric in ("accuracy", "log_probability"):
        for name in ("leaderboard", "dose_response"):
            new, old = (getattr(Atlas.open(path), name)(metric=metric).to_pylist() for path in (evaluated, older))
            assert rounded(new) == rounded(old) and len(new) > 1
    new, old = (Atlas.open(path).query("dog", "contribution", where=where).to_pylist() for path in (evaluated, older))
    assert rounded(new) == rounded(old) and new
    with pytest.raises(UsageError, match=r"remove a run from before they were kept \(`atlas runs rm RUN`\)"):
        Atlas.open(older).cross_ablation()


def test_a_newer_evaluation_of_fewer_concepts_is_named(evaluated: Path, held_out: Job, tmp_path: Path) -> None:
    path = Path(shutil.copytree(evaluated, tmp_path / "newer.atlas"))
    three = replace(held_out, concepts=("cat", "dog"), per_concept=2)
    ablate_tops(path, replace(three, concepts=("dog",)), Execution(), methods=["contribution"], tops=["10"], seeds=0)
    ablate_tops(path, three, Execution(), methods=["activation"], tops=["40"], seeds=0)
    [first] = {row["run_id"] for row in Atlas.open(evaluated).cross_ablation().to_pylist()}
    answer = Atlas.open(path).cross_ablation()
    assert {(row["run_id"], row["method"]) for row in answer.to_pylist()} == {(first, "contribution")}
    assert "method=contribution (also stored: activation)" in answer.defaults
    assert {row["seeds"] for row in Atlas.open(path).cross_ablation("activation").to_pylist()} == {0}


def by_loops(effects: np.ndarray) -> float:
    """The share of all permutations whose diagonal is as low against the rest as the true one."""
    count = len(effects)

    def dominance(order: tuple[int, ...]) -> float:
        on = [effects[i, order[i]] for i in range(count)]
        off = [effects[i, j] for i in range(count) for j in range(count) if j != order[i]]
        return float(np.nanmean(on) - np.nanmean(off))

    true = dominance(tuple(range(count)))
    return float(np.mean([dominance(order) <= true + 1e-12 for order in permutations(range(count))]))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("count", [4, 5, 6])
def test_the_p_value_is_that_of_every_permutation(count: int, seed: int) -> None:
    effects = np.random.default_rng(seed).normal(size=(count, count)).round(1)
    effects[0, 1] = np.nan
    found = diagonal_dominance(effects)
    assert found.p_value == pytest.approx(by_loops(effects))
    off = effects[~np.eye(count, dtype=bool)]
    assert found.dominance == pytest.approx(np.trace(effects) / count - np.nanmean(off))


def test_a_planted_diagonal_is_found_and_strong_rows_or_columns_are_not() -> None:
    rng = np.random.default_rng(0)
    noise = 0.01 * rng.normal(size=(12, 12))
    found = diagonal_dominance(noise - 0.8 * np.eye(12))
    assert found.p_value == 1 / (1 + DRAWS) and found.relative == pytest.approx(1, abs=0.05)
    strong_rows = diagonal_dominance(np.repeat(-np.arange(6.0)[:, None], 6, axis=1))
    assert strong_rows.dominance == pytest.approx(0) and strong_rows.p_value == 1
    assert diagonal_dominance(-np.eye(3)).p_value is None and diagonal_dominance(-np.eye(4)).p_value == 1 / 24
    gained = diagonal_dominance(np.eye(4))
    assert gained.relative is None and gained.dominance == 1 and gained.p_value == 1
    uniform = [diagonal_dominance(rng.normal(size=(5, 5))).p_value for _ in range(400)]
    assert np.mean([p <= 0.1 for p in uniform if p is not None]) == pytest.approx(0.1, abs=0.045)


@pytest.fixture
def planted(empty: Path, make_run: Callable[..., Any], store_maps: Callable[..., None]) -> Callable[..., Atlas]:
    """An atlas with maps, and an evaluation whose accuracies before and after are given: (ablated, asked) -> loss."""

    def call(loss: Callable[[str, str], float], names: tuple[str, ...] = NAMES, control: float | None = 0.0) -> Atlas:
        run = make_run(0, concepts=names)
        store_maps(empty, run, {"contribution": {name: {(0, 1): 1.0} for name in names}})
        run = make_run(10, concepts=names)
        run.head["run"]["kind"] = "evaluate"
        rows = []
        for ablated in names:
            shared = {"run_id": run.run_id, "edit": f"contribution:2%:mean:{ablated}", "concept": ablated}
            shared |= {"method": "contribution", "dose": "2%", "reduce": "mean", "target": "text", "source": "text"}
            shared |= {"task": "*", "metric": "accuracy", "examples": 4, "seeds": 3}
            for asked in names:
                subset = "concept" if asked == ablated else f"about:{asked}"
                values = {"before": 0.75, "edit": 0.75 - loss(ablated, asked)}
                values |= {} if control is None else {"random": 0.75 - control}
                rows += [{**shared, "subset": subset, "condition": c, "value": v} for c, v in values.items()]
        effects = pa.Table.from_pylist(rows, schema=arrow_types.arrow_schema(schema.effects))
        with engine.connect_writer(empty) as connection:
            run_loader.load_run(connection, replace(run, tables={"effects": effects}).write(empty))
        return Atlas.open(empty)

    return call


def test_a_planted_evaluation_has_its_losses_and_their_dominance(planted: Callable[..., Atlas]) -> None:
    answer = planted(lambda ablated, asked: 0.5 if ablated == asked else 0.125, control=0.0625).cross_ablation()
    assert answer.facts["concepts"] == list(NAMES)
    for row in answer.to_pylist():
        assert row["effect"] == pytest.approx(-0.5 if row["ablated"] == row["asked"] else -0.125)
        assert (row["random"], row["before"], row["n"], row["seeds"]) == (-0.0625, 0.75, 4, 3)
    numbers = {name: answer.facts[name] for name in ("own", "others", "dominance", "relative", "p", "random_dominance")}
    expected = {"own": -0.5, "others": -0.125, "dominance": -0.375, "relative": 0.75, "p": 1 / 120}
    assert numbers == pytest.approx(expected | {"random_dominance": 0})
    assert "p = 0.0083 over 120 permutations" in answer.notes[0]


def test_the_figure_is_the_matrix_beside_random_neurons(planted: Callable[..., Atlas]) -> None:
    pytest.importorskip("matplotlib")
    from atlas.figures import cross_ablation
    from atlas.testing import check_figure

    answer = planted(lambda ablated, asked: 0.5 if ablated == asked else -0.125, control=0.25).cross_ablation()
    check_figure(cross_ablation, answer)
    axis = answer.plot()
    values = axis.get_images()[0].get_array().filled(np.nan)
    assert np.allclose(values[:, :5], 12.5 - 62.5 * np.eye(5)) and np.isnan(values[:, 5]).all()
    assert np.allclose(values[:, 6:], -25)
    norm = axis.get_images()[0].norm
    assert norm.vcenter == 0 and norm.vmax == -norm.vmin == 50
    assert [label.get_text() for label in axis.get_xticklabels()] == [*NAMES, "random: own", "random: others"]
    below = axis.get_xlabel()
    assert "n = 4 questions" in below and "own less others -62.5 (125% of own), p = 0.0083" in below
    assert {text.get_text() for text in axis.texts} == {"-50", "12", "-25"}


def test_three_concepts_are_too_few_and_no_control_is_not_drawn(planted: Callable[..., Atlas]) -> None:
    pytest.importorskip("matplotlib")
    answer = planted(lambda a, b: 0.5 * (a == b), names=("cat", "dog", "fish"), control=None).cross_ablation()
    assert answer.facts["p"] is None and answer.facts["random_dominance"] is None
    axis = answer.plot()
    assert "cannot tell from 3 concepts" in axis.get_xlabel() and "cannot tell from 3 concepts" in answer.notes[1]
    assert axis.get_images()[0].get_array().shape == (3, 3) and "random" not in axis.get_title()
