"""Effects against answers counted by hand, and surveys of a method over all concepts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from atlas import Atlas
from atlas.edits import kinds
from atlas.errors import UsageError
from atlas.live.edit.apply import changing
from atlas.maintain.check import check
from atlas.store.database import open_readonly
from ingest.data.examples import Example, Mention
from ingest.evaluate.controls import ACTIVATION, LAYERS, controls_for
from ingest.evaluate.edit import evaluate
from ingest.evaluate.effects import POOLED, group_questions, summarise, table
from ingest.evaluate.methods import ablate_tops, averages, pooled_accuracy
from ingest.evaluate.teacher_forced import ACCURACY, LOG_PROBABILITY, QuestionKey, Scores, TeacherForced
from ingest.job import Execution, Job, open_dataset
from ingest.run import prepare
from ingest.run.encode_examples import ExampleEncoder
from ingest.run.resolve import complete

EYES = frozenset({"image", "text"})


@pytest.fixture
def held_out(small_job: Job) -> Job:
    return replace(small_job, split="held_out", per_concept=3)


def test_what_is_right_is_counted_as_a_plain_loop_counts_it(llava: Any, held_out: Job) -> None:
    dataset = open_dataset(held_out)
    job = complete(held_out, dataset, EYES)
    evaluator = TeacherForced(ExampleEncoder(llava, dataset, job), prepare.collect(job, dataset), 4)
    scores = evaluator.evaluate()
    expected: dict[tuple[str, str, str], list[tuple[bool, float]]] = {}
    for source, items in evaluator.items.items():
        for item in items:
            example = evaluator.examples[item.number]
            ids = torch.tensor([item.prompt.ids + item.prompt.answer])
            with torch.no_grad():
                logits = llava.model(input_ids=ids, **item.prompt.extras).logits[0]
            places = [len(item.prompt.ids) + t.index for t in item.targets]
            tokens = [int(ids[0, p]) for p in places]
            right = all(int(logits[p - 1].argmax()) == t for p, t in zip(places, tokens, strict=True))
            logp = np.mean([float(logits[p - 1].log_softmax(-1)[t]) for p, t in zip(places, tokens, strict=True)])
            expected.setdefault((source, example.task, item.targets[0].concept), []).append((right, float(logp)))
    found: dict[tuple[str, str, str], list[tuple[bool, float]]] = {}
    for asked, right, logp in zip(
        scores.questions, scores.values[ACCURACY], scores.values[LOG_PROBABILITY], strict=True
    ):
        found.setdefault((asked.source, asked.task, asked.concept), []).append((bool(right), float(logp)))
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        assert [r for r, _ in found[key]] == [r for r, _ in values]
        assert [p for _, p in found[key]] == pytest.approx([p for _, p in values], abs=1e-4)


def test_groups_leave_out_what_is_neither_the_concepts_nor_the_others() -> None:
    both = frozenset({"dog", "cat"})
    asked = (
        QuestionKey("image", "name", "dog", frozenset({"dog"}), "a.jpg"),
        QuestionKey("image", "name", "cat", frozenset({"cat"}), "b.jpg"),
        QuestionKey("image", "caption", "dog", both, "c.jpg"),
        QuestionKey("image", "caption", "cat", both, "c.jpg"),  # another concept in a picture of the dog: neither
    )
    groups = group_questions(Scores(asked, {ACCURACY: np.array([1.0, 0, 1, 1])}), "dog")
    assert groups["image", POOLED, "concept"].tolist() == [0, 2]
    assert groups["image", POOLED, "others"].tolist() == [1]
    assert ("image", "caption", "others") not in groups


def scored(asked: tuple[QuestionKey, ...], right: list[float], logp: list[float]) -> Scores:
    return Scores(asked, {ACCURACY: np.array(right, float), LOG_PROBABILITY: np.array(logp)})


def test_a_summary_has_every_condition_beside_its_control() -> None:
    asked = tuple(QuestionKey("text", "does", c, frozenset({c}), f"{c} barks") for c in ("dog", "cat", "cat"))
    before = scored(asked, [1, 1, 1], [-0.1, -0.1, -0.1])
    edit = scored(asked, [0, 1, 1], [-5.0, -0.1, -0.1])
    random = [scored(asked, [1, 1, r], [-0.1, -0.1, -0.2]) for r in (0, 1)]
    rows = summarise({"before": [before], "edit": [edit], "random": random}, "dog")
    value = {(r["subset"], r["condition"], r["metric"], r["task"]): r["value"] for r in rows}
    assert value["concept", "edit", "accuracy", "does"] == 0 and value["others", "edit", "accuracy", POOLED] == 1
    assert value["others", "random", "accuracy", "does"] == pytest.approx(0.75)
    assert value["concept", "edit", "log_probability", "does"] == -5
    shown = table(rows).to_pylist()
    assert len(shown) == 4 and all({"before", "edit", "random"} < r.keys() for r in shown)
    others = next(r for r in shown if r["subset"] == "others" and r["task"] == "does")
    assert (others["n"], others["of"]) == (2, "1 fact") and others["before"] == "100% [n/a]"
    assert others["random"] == "75% [n/a: 2 draws]" and others["n_eff"] <= 1


def test_examples_of_one_picture_or_fact_are_one_cluster() -> None:
    """Four facts in three wordings: the interval is that of four answers, not of twelve."""
    asked = tuple(QuestionKey("text", "does", "dog", frozenset({"dog"}), f"fact {i // 3}") for i in range(12))
    rows = summarise({"before": [scored(asked, [1] * 9 + [0] * 3, [0.0] * 12)]}, "dog")
    row = next(r for r in rows if r["metric"] == "accuracy" and r["task"] == POOLED)
    assert (row["examples"], row["clusters"]) == (12, 4) and 3 <= row["effective"] <= 4
    single = tuple(replace(a, cluster=str(i)) for i, a in enumerate(asked))
    alone = summarise({"before": [scored(single, [1] * 9 + [0] * 3, [0.0] * 12)]}, "dog")[0]
    assert alone["effective"] == 12 and row["high"] - row["low"] > 1.5 * (alone["high"] - alone["low"])
    example = Example("text", "does", "find", "what does the dog do?", "barks", (Mention("dog", "barks"),))
    assert example.cluster == replace(example, prompt="what can a dog do?").cluster
    assert example.cluster != replace(example, answer="sleeps").cluster
    assert replace(example, media=("a.jpg",)).cluster == "a.jpg"
    assert replace(example, fact="7").cluster == "7" and replace(example, fact="7").id == example.id


def test_an_evaluation_is_stored_once_with_its_control(own_atlas: Path, llava_folder: Path, held_out: Job) -> None:
    atlas = Atlas.open(own_atlas)
    atlas.create_edit("no-dog", atlas.query("dog", "gradient_x_activation", source="text", top=40), kinds.ablate())
    edit = atlas.edit("no-dog").data
    done = evaluate(own_atlas, edit, held_out, Execution(), seeds=2)
    assert done.fresh
    again = evaluate(own_atlas, edit, held_out, Execution(), seeds=2)
    assert not again.fresh and len(again.rows) == len(done.rows)
    effects = atlas.effects().to_pylist()
    assert atlas.effects(edit="no-dog@1").to_pylist() == atlas.effects(run=done.run_id).to_pylist() == effects
    own = [r for r in effects if r["concept"] == "dog"]
    assert own and atlas.effects(concept="dog").to_pylist() == own
    with pytest.raises(UsageError, match="no measured edit called 'no-dog'; did you mean 'no-dog@1'"):
        atlas.effects(edit="no-dog")
    assert {r["condition"] for r in effects} == {"before", "edit", "random"}
    assert {r["subset"] for r in effects} == {"concept", "others", "model"}
    assert {r["value"] for r in effects if r["metric"] == "changed_parameters"} == {40 * 32}
    assert all(r["seeds"] == (2 if r["condition"] == "random" else 1) for r in effects)
    assert check(own_atlas) == []
    # the edit changed something: on the random model too, forty of 128 neurons move every log-probability
    logp = {
        r["condition"]: r["value"]
        for r in effects
        if (r["metric"], r["source"], r["task"], r["subset"]) == ("log_probability", "text", POOLED, "concept")
    }
    assert logp["edit"] != logp["before"]
    other = replace(edit, model={**edit.model, "fingerprint": "0" * 64})
    with pytest.raises(UsageError, match="not for these weights"):
        evaluate(own_atlas, other, held_out, Execution())


def test_a_survey_names_the_method_that_the_atlas_does_not_have(own_atlas: Path, held_out: Job) -> None:
    with pytest.raises(UsageError, match="no bogus map of these concepts"):
        ablate_tops(own_atlas, held_out, Execution(), methods=["contribution", "bogus"], tops=["10"], seeds=0)


def test_a_survey_ablates_every_concepts_neurons(own_atlas: Path, held_out: Job, llava: Any) -> None:
    done = ablate_tops(own_atlas, held_out, Execution(), methods=["contribution"], tops=["10"], seeds=1)
    assert {r["concept"] for r in done.rows} == {"cat", "dog"}
    assert check(own_atlas) == []
    # one concept's edit, by hand
    dataset = open_dataset(held_out)
    job = replace(complete(held_out, dataset, EYES), sources=("text",))
    neurons = Atlas.open(own_atlas).query("dog", "contribution", source="text", top=10)
    evaluator = TeacherForced(ExampleEncoder(llava, dataset, job), prepare.collect(job, dataset), 16)
    from atlas.edits.edit import Intervention
    from atlas.edits.kinds import make_changes

    with changing(llava, Intervention(make_changes(list(neurons), kinds.ablate()))):
        scores = evaluator.evaluate()
    mine = [p for a, p in zip(scores.questions, scores.values[LOG_PROBABILITY], strict=True) if a.concept == "dog"]
    (row,) = [
        r
        for r in done.rows
        if (r["concept"], r["source"], r["task"], r["subset"], r["condition"], r["metric"])
        == ("dog", "text", POOLED, "concept", "edit", "log_probability")
    ]
    assert row["value"] == pytest.approx(np.mean(mine), abs=1e-5)
    assert averages(done.rows).num_rows == 2 * 2 * 2  # sources, subsets and metrics, all tasks pooled
    each = [r["value"] for r in done.rows if r["task"] == POOLED and r["metric"] == "accuracy"
            and (r["source"], r["subset"], r["condition"]) == ("text", "others", "before")]  # fmt: skip
    assert pooled_accuracy(done.rows, "text", "others", "before") == pytest.approx(np.mean(each))


def test_the_control_of_a_mean_edit_sets_random_neurons_to_their_own_means(
    own_atlas: Path, held_out: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ingest.evaluate.edit
    from atlas.edits.edit import Change
    from atlas.edits.reference_values import reference_values

    atlas = Atlas.open(own_atlas)
    atlas.create_edit("calm", atlas.query("dog", source="text", top=6), kinds.mean())
    edit = atlas.edit("calm").data
    assert edit.provenance["change"]["mean"] is True
    seen: list[list[Change]] = []
    plain = ingest.evaluate.edit.evaluate_with
    monkeypatch.setattr(ingest.evaluate.edit, "evaluate_with", lambda e, i: seen.append(list(i.changes)) or plain(e, i))
    evaluate(own_atlas, edit, held_out, Execution(), seeds=2)
    means = reference_values(own_atlas, edit.provenance)
    assert len(seen) == 3  # the edit and two draws
    for changes in seen:
        assert all(c.gain == 0 and c.bias == pytest.approx(means[c.neuron], abs=1e-6) for c in changes)
    assert {c.neuron for c in seen[1]}.isdisjoint({c.neuron for c in seen[0]})


def test_pandas_is_named_where_it_is_missing(stored_atlas: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from atlas.errors import Unsupported

    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    with pytest.raises(Unsupported, match="pip install pandas"):
        Atlas.open(stored_atlas).query("dog").to_pandas()


def test_controls_are_as_loud_where_the_atlas_knows(
    own_atlas: Path, empty_atlas: Path, held_out: Job, llava: Any
) -> None:
    notes: list[str] = []
    found = controls_for(own_atlas, llava, None, "product", notes=notes)
    assert found.kind == ACTIVATION and notes == [] and sorted(found.loudness) == [0, 1]
    with open_readonly(own_atlas) as connection:
        rows = connection.sql(
            "SELECT s.layer, s.neuron, avg(s.score) FROM scores s JOIN maps m USING (map_id)"
            " WHERE m.method = 'activation' AND m.reduce = 'mean_abs' AND m.concept_id IS NULL GROUP BY ALL"
        ).fetchall()
    assert len(rows) == 128
    assert all(found.loudness[layer][n] == pytest.approx(value, rel=1e-5) for layer, n, value in rows)
    assert controls_for(own_atlas, llava, "layers", "product", notes=notes).kind == LAYERS and notes == []
    assert controls_for(empty_atlas, llava, None, "product", notes=notes).kind == LAYERS
    assert len(notes) == 1 and "--methods activation --tap product` stores them" in notes[0]
    with pytest.raises(UsageError, match="--methods activation --tap product"):
        controls_for(empty_atlas, llava, "activation", "product", notes=notes)
    with pytest.raises(UsageError, match="no kind of controls called 'loud'"):
        controls_for(own_atlas, llava, "loud", "product", notes=notes)


def test_all_examples_are_asked_where_none_need_be_held_out(held_out: Job, tmp_path: Path) -> None:
    """Forty questions of a file, about eight of them held out: both splits together are all of them, each once."""
    file = tmp_path / "facts.jsonl"
    rows = [{"prompt": f"what is number {i}?", "answer": f"a dog {i}", "concepts": ["dog"]} for i in range(40)]
    file.write_text("\n".join(json.dumps(row) for row in rows))
    asking = replace(held_out, dataset=f"prompts:{file}", concepts=(), sources=("text",), tasks=(), per_concept=100)
    dataset = open_dataset(asking)
    counts = {}
    for split in ("find", "held_out", "all"):
        job = complete(replace(asking, split=split), dataset, EYES)
        examples = prepare.collect(job, dataset)
        counts[split] = len(examples)
        named = "find and held_out" if split == "all" else split
        assert prepare.describe_examples(job, dataset, examples) == (
            f"{len(examples):,} of {len(examples):,} examples of prompts:{file}, split {named}"
        )
        few = prepare.collect(replace(job, per_concept=2), dataset)
        assert prepare.describe_examples(job, dataset, few).startswith(f"{len(few)} of {len(examples)} examples")
    assert counts["find"] + counts["held_out"] == counts["all"] == 40 and counts["held_out"] > 2


def test_answers_are_those_that_the_neurons_were_found_on(empty_atlas: Path) -> None:
    """Found on people's captions of photographs, neurons are judged by people's captions."""
    atlas = Atlas.open(empty_atlas)
    asked: dict[str, Any] = {"dataset": "photos", "sources": ["image"], "concepts": ["dog", "cat"]}
    atlas.ingest(model="tiny-llava", methods=["activation"], answers="reference", per_concept=2, **asked)
    by_method = atlas.evaluate(method="activation", model="tiny-llava", doses=["10"], seeds=0, **asked)
    assert any("split held_out, reference answers" in note for note in by_method.notes)
    atlas.create_edit("no-dog", atlas.query("dog", "activation", top=10), kinds.ablate())
    by_edit = atlas.evaluate("no-dog", concepts=["dog", "cat"], metrics=["none"], seeds=0)
    assert any("split held_out, reference answers" in note for note in by_edit.notes)
    own = atlas.evaluate("no-dog", concepts=["dog", "cat"], metrics=["none"], seeds=0, answers="own")
    assert not any("reference answers" in note for note in own.notes)
