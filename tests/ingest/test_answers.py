"""Answers judged before and after an edit, against each answer generated and judged by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from swapping import SPOKEN, World, feed_of

from atlas import Atlas
from atlas.edits import kinds
from atlas.edits.edit import Change, Edit, Intervention
from atlas.errors import Unsupported, UsageError
from atlas.live.edit.apply import changing
from atlas.live.encode import Prompt
from atlas.live.model import LiveModel
from atlas.maintain.check import check
from atlas.neurons import Neuron
from atlas.store.database import open_readonly
from ingest.data.examples import Example
from ingest.evaluate.edit import Measures, evaluate
from ingest.evaluate.effects import POOLED, summarise
from ingest.evaluate.generated import AnswerEvaluator, check_measures, chosen_metrics
from ingest.evaluate.metric import Judged, judge, load_metrics
from ingest.evaluate.teacher_forced import Scores
from ingest.job import Execution, Job

SILENT = Intervention(tuple(Change(Neuron("language", 0, i), 0.0) for i in range(0, 64, 2)))
"""Half of the first layer ablated: the speaking model stutters."""

METRICS = {"exact": {}, "rouge_l": {}}


def answer(live: LiveModel, prompt: Prompt, intervention: Intervention) -> str:
    with changing(live, intervention):
        ids = live.generate([Prompt(prompt.ids, (), prompt.extras)], max_new_tokens=12)[0]
    return str(live.encoder.decode(ids)).strip()


def examined(
    live: LiveModel,
    examples: Sequence[Example],
    concept: str | None = "dog",
    tasks: Any = None,
    against: str = "references",
) -> AnswerEvaluator:
    tasks = tasks or dict.fromkeys(("caption", "name"), load_metrics(list(METRICS), METRICS))
    return AnswerEvaluator(feed_of(live, examples), list(examples), tasks, concept, 3, against)


def ask(evaluator: AnswerEvaluator, intervention: Intervention) -> Scores:
    with changing(evaluator.live, intervention):
        return evaluator.evaluate()


def by_hand(judged: Judged | None) -> Mapping[str, float]:
    """Each metric of one answer alone; no number where there is nothing to judge by."""
    if judged is None:
        return dict.fromkeys(METRICS, np.nan)
    return {name: float(values[0]) for name, values in judge(load_metrics(list(METRICS), METRICS), [judged]).items()}


@pytest.mark.parametrize("against", ["references", "before"])
def test_every_number_is_that_of_a_plain_loop(against: str, speaking: Any) -> None:
    """Examples with several references, with the answer alone, and with none: the model's own of before."""
    examples = [
        *SPOKEN[2:6],
        replace(SPOKEN[8], references=("a red dog", "the dog barks")),
        replace(SPOKEN[9], answer=None),
        replace(SPOKEN[10], answer="meows"),
    ]
    live, nothing = speaking, Intervention(())
    evaluator = examined(live, examples, against=against)
    prompts = [prompt for _, prompt in evaluator.prompts]
    before = [answer(live, prompt, nothing) for prompt in prompts]
    changed = 0
    for intervention in (nothing, SILENT):
        scores = ask(evaluator, intervention)
        after = [answer(live, prompt, intervention) for prompt in prompts]
        changed += sum(a != b for a, b in zip(after, before, strict=True))
        for i, one in enumerate(examples):
            references = one.references or ((one.answer,) if one.answer is not None else (before[i],))
            if against == "before":
                references = (before[i],)
            for name, value in by_hand(Judged(after[i], references)).items():
                assert scores.values[name][i] == pytest.approx(value, nan_ok=True), (name, i)
        if against == "before" and intervention is nothing:
            assert scores.values["exact"].tolist() == [1.0] * len(examples)
    assert changed > 2
    assert [a.concept for a in scores.questions] == ["dog", "dog", "", "", "dog", "dog", ""]
    assert [(a.source, a.task) for a in scores.questions] == [(e.source, e.task) for e in examples]


def test_an_answer_without_anything_to_judge_by_has_no_number(speaking: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = [replace(SPOKEN[8], answer=None), replace(SPOKEN[9], answer=None), SPOKEN[10]]
    evaluator = examined(speaking, examples)
    plain = LiveModel.generate

    def generate(self: LiveModel, prompts: Sequence[Prompt], **options: Any) -> list[list[int]]:
        found = plain(self, prompts, **options)
        first = evaluator.prompts[0][1].ids
        return [[] if p.ids == first else ids for p, ids in zip(prompts, found, strict=True)]

    monkeypatch.setattr(LiveModel, "generate", generate)
    scores = evaluator.evaluate()
    assert np.isnan(scores.values["exact"]).tolist() == [True, False, False]
    rows = [r for r in summarise({"before": [scores]}, "dog") if (r["metric"], r["task"]) == ("exact", POOLED)]
    assert [(r["subset"], r["value"], r["examples"]) for r in rows] == [("concept", 1.0, 1), ("others", 1.0, 1)]


def test_each_task_has_its_own_metrics_and_others_are_not_asked(speaking: Any) -> None:
    captions, names = SPOKEN[2:6], SPOKEN[8:10]
    tasks = {"caption": load_metrics(["exact"], {}), "name": load_metrics(["rouge_l"], {})}
    scores = examined(speaking, [*captions, *names], tasks=tasks).evaluate()
    assert np.isnan(scores.values["exact"]).tolist() == [False] * 4 + [True] * 2
    assert np.isnan(scores.values["rouge_l"]).tolist() == [True] * 4 + [False] * 2
    evaluator = examined(speaking, [*captions, *names], tasks={"name": tasks["name"]})
    assert [e for e, _ in evaluator.prompts] == names
    assert evaluator.evaluate().values.keys() == {"rouge_l"}


def test_effects_are_of_the_concept_and_of_the_others(speaking: Any) -> None:
    examples = [SPOKEN[2], SPOKEN[4], replace(SPOKEN[5], answer="a bee")]
    for concept, groups in (("dog", {"concept": [1.0], "others": [1.0, 0.0]}), (None, {"others": [1.0, 1.0, 0.0]})):
        scores = examined(speaking, examples, concept).evaluate()
        rows = summarise({"before": [scores]}, concept)
        found = {r["subset"]: r["value"] for r in rows if (r["metric"], r["task"]) == ("exact", POOLED)}
        assert found == {subset: pytest.approx(np.mean(values)) for subset, values in groups.items()}


class Picture:
    """A metric that looks at the picture."""

    def score(self, judged: Sequence[Judged]) -> dict[str, np.ndarray]:
        return {"looks": np.array([0.0 if j.image is None else float(np.asarray(j.image).mean()) for j in judged])}


def test_a_metric_that_needs_the_picture_gets_it(speaking: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import ingest.metrics.exact

    monkeypatch.setattr(ingest.metrics.exact, "NEEDS_IMAGE", True, raising=False)
    examples = [SPOKEN[2], SPOKEN[9]]
    scores = examined(speaking, examples, tasks={task: {"exact": Picture()} for task in ("caption", "name")}).evaluate()
    picture = World([]).image(examples[0].media[0])
    assert scores.values["looks"].tolist() == [float(np.asarray(picture).mean()), 0.0]


def lacking(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """This machine cannot build a metric."""
    from importlib import import_module

    module = import_module(f"ingest.metrics.{name}")
    message = f"{name} needs: pip install 'neuron-atlas[metrics]'"

    def build() -> Any:
        raise Unsupported(message)

    build.__module__ = module.__name__
    monkeypatch.setattr(module, "build", build)


def test_metrics_are_those_that_the_dataset_names(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = {"caption": ("exact", "rouge_l"), "name": ("rouge_l",), "other": ("exact",)}
    world = World([], metrics)
    told: list[str] = []
    found = chosen_metrics(world, ["caption", "name", "plain"], None, {}, notes=told)
    assert {task: list(some) for task, some in found.items()} == {"caption": ["exact", "rouge_l"], "name": ["rouge_l"]}
    assert told == [] and chosen_metrics(world, ["plain"], None, {}, notes=told) == {}
    assert chosen_metrics(world, ["caption"], [], {}, notes=told) == {}
    lacking(monkeypatch, "rouge_l")
    found = chosen_metrics(world, ["caption", "name"], None, {}, notes=told)
    assert {task: list(some) for task, some in found.items()} == {"caption": ["exact"]}
    assert told == ["rouge_l was left out: rouge_l needs: pip install 'neuron-atlas[metrics]'"]


def test_metrics_that_are_named_are_for_every_task_and_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    world, told = World([], {"caption": ("rouge_l",)}), list[str]()
    found = chosen_metrics(world, ["caption", "plain"], ["exact"], {}, notes=told)
    assert {task: list(some) for task, some in found.items()} == {"caption": ["exact"], "plain": ["exact"]}
    lacking(monkeypatch, "rouge_l")
    with pytest.raises(Unsupported, match="rouge_l needs: pip install"):
        chosen_metrics(world, ["caption"], ["exact", "rouge_l"], {}, notes=told)
    assert told == []


def test_what_is_no_metric_is_refused_before_a_model_is_loaded(
    own_atlas: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World([], {"caption": ("exact",)})
    with pytest.raises(UsageError, match="options for 'bleu', which is not among these .* .exact.; add it to met"):
        chosen_metrics(world, ["caption"], None, {"bleu": {"smooth": "1"}}, notes=[])
    for measures, message in (
        (Measures(("rogue_l",)), "no metric called 'rogue_l'; .*rouge_l"),
        (Measures(options={"bluert": {}}), "no metric called 'bluert'; .*bleurt"),
        (Measures(("bleu",), {"bleu": {"smoth": 1}}), "no parameter of bleu called 'smoth'"),
        (Measures(against="after"), "against is references or before, not 'after'"),
    ):
        with pytest.raises(UsageError, match=message):
            check_measures(measures.metrics, measures.options, measures.against)
        monkeypatch.setattr("ingest.run.prepare.load_model", lambda *_: pytest.fail("a model was loaded"))
        atlas = Atlas.open(own_atlas)
        edit = atlas.create_edit("x", atlas.query("dog", top=2), kinds.ablate()).data
        with pytest.raises(UsageError, match=message):
            evaluate(own_atlas, edit, Job(split="held_out"), Execution(), measures=measures)
    check_measures(None, {})
    check_measures(("exact", "bleu"), {})


def stored_answers(atlas: Path) -> int:
    with open_readonly(atlas) as connection:
        return int(connection.execute("SELECT count(*) FROM responses").fetchall()[0][0])


def evaluated(path: Path, edit: Edit, seeds: int, **measures: Any) -> list[dict[str, Any]]:
    job = Job(split="held_out", max_new_tokens=12)
    done = evaluate(path, edit, job, Execution(batch_size=4), seeds=seeds, measures=Measures(**measures))
    return list(done.rows)


def test_an_evaluation_judges_answers_and_stores_those_of_before_once(
    empty_atlas: Path, speaking: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dataset names metrics for captions; a second evaluation takes the first one's answers."""
    world = World(SPOKEN, {"caption": ("exact", "bleu")})
    monkeypatch.setattr("ingest.run.session.open_dataset", lambda job: world)
    monkeypatch.setattr("ingest.run.prepare.load_model", lambda job, execution: speaking)
    from atlas.edits import library as edit_library
    from ingest.run.record import model_row

    about = {"fingerprint": speaking.fingerprint, "concept": "dog"}
    edit = edit_library.new(empty_atlas, "silent", SILENT, about, model=model_row(speaking))
    rows = evaluated(empty_atlas, edit, 2)
    captions = [e for e in SPOKEN if (e.split, e.task) == ("held_out", "caption")]
    assert stored_answers(empty_atlas) == len(captions) == 4
    names = {r["metric"] for r in rows if r["task"] == "caption"}
    assert {"exact", "bleu1", "bleu4"} <= names and not names & {"rouge_l"}
    assert {r["task"] for r in rows if r["metric"] == "exact"} == {"caption", POOLED}
    value = {(r["condition"], r["subset"]): r for r in rows if (r["metric"], r["task"]) == ("exact", POOLED)}
    assert value["before", "concept"]["value"] == 1.0 and value["before", "concept"]["examples"] == 2
    assert value["random", "others"]["seeds"] == 2
    feed = feed_of(speaking, SPOKEN)
    for subset, mentioned in (("concept", "dog"), ("others", "cat")):
        mine = [e for e in captions if mentioned in [m.concept for m in e.mentions]]
        prompts = [p for e in mine if (p := feed.prompt(e)) is not None]
        right = [answer(speaking, p, SILENT) == e.answer for e, p in zip(mine, prompts, strict=True)]
        assert value["edit", subset]["value"] == pytest.approx(np.mean(right))
    asked: list[int] = []
    plain = LiveModel.generate

    def generate(self: LiveModel, prompts: Sequence[Prompt], **options: Any) -> list[list[int]]:
        asked.append(len(prompts))
        return plain(self, prompts, **options)

    monkeypatch.setattr(LiveModel, "generate", generate)
    rows = evaluated(empty_atlas, edit, 0, metrics=("exact",), against="before")
    held_out = sum(e.split == "held_out" for e in SPOKEN)
    assert sum(asked) == 2 * held_out - 4 and stored_answers(empty_atlas) == held_out
    assert {r["condition"] for r in rows} == {"before", "edit"}
    assert {r["value"] for r in rows if (r["metric"], r["condition"]) == ("exact", "before")} == {1.0}
    assert {r["task"] for r in rows if r["metric"] == "exact"} == {"caption", "name", POOLED}
    assert evaluated(empty_atlas, edit, 0, metrics=()) and stored_answers(empty_atlas) == held_out
    assert check(empty_atlas) == []


def test_the_complement_of_a_few_neurons_has_a_control(own_atlas: Path, llava_folder: Path) -> None:
    """Nearly every neuron changes: a control keeps as many others, and the note says that it shares the rest."""
    atlas = Atlas.open(own_atlas)
    found = atlas.query("dog", source="text", top=10)
    kept = {n.layer for n in found}
    job = Job(str(llava_folder), concepts=("dog",), split="held_out", per_concept=2, sources=("text",))
    edit = atlas.create_edit("only-dog", atlas.complement(found), kinds.mean()).data
    done = evaluate(own_atlas, edit, job, Execution(), seeds=2)
    assert {r["condition"] for r in done.rows} == {"before", "edit", "random"}
    asked, note = done.notes
    assert note == "random controls share neurons with the edit, which changes more than half of layers 0, 1"
    assert asked.startswith("asks 6 examples of scenes, split held_out") and kept <= {0, 1}
    whole = atlas.create_edit("whole", atlas.complement(found) | found, kinds.scale(0.5)).data
    done = evaluate(own_atlas, whole, job, Execution(), seeds=2)
    assert {r["condition"] for r in done.rows} == {"before", "edit"}
    assert done.notes[1:] == ("no random control: the edit changes every neuron of its layers",)
    assert check(own_atlas) == []


def test_a_survey_of_every_neuron_has_no_control(own_atlas: Path, llava_folder: Path) -> None:
    from ingest.evaluate.methods import ablate_tops

    job = Job(str(llava_folder), concepts=("dog",), split="held_out", per_concept=2, sources=("text",))
    done = ablate_tops(own_atlas, job, Execution(), methods=["contribution"], tops=["80%", "100%"], seeds=1)
    shares = {r["edit"].split(":")[1] for r in done.rows if r["condition"] == "random"}
    assert shares == {"80%"} and {r["edit"].split(":")[1] for r in done.rows} == {"80%", "100%"}
