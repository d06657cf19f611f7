"""What a word swap does, against answers generated and judged one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from swapping import SPOKEN, World, example, feed_of, one_pass, target_probabilities

import ingest.evaluate.edit
import ingest.evaluate.from_edit
import ingest.solve.solve
from atlas import Atlas
from atlas.edits import library as edit_library
from atlas.edits.edit import Change, Edit, Intervention
from atlas.live.edit.apply import changing
from atlas.live.encode import Prompt
from atlas.live.model import LiveModel
from atlas.maintain.check import check
from atlas.neurons import Neuron
from ingest.data.examples import Example
from ingest.evaluate.controls import LAYERS, Controls
from ingest.evaluate.edit import evaluate, random_controls
from ingest.evaluate.effects import POOLED, summarise
from ingest.evaluate.from_edit import swap_of
from ingest.evaluate.teacher_forced import Scores
from ingest.evaluate.word_swap import SwapEvaluator
from ingest.job import Execution, Job, make_job
from ingest.solve.solve import SolveSpec, solve
from ingest.solve.swaps import Swap

EYES = frozenset({"image", "text"})

CAT = Swap("dog", "cat")
BY_LAYERS = Controls(LAYERS, 64)


def answer(live: LiveModel, prompt: Prompt, intervention: Intervention) -> str:
    """The greedy answer to one prompt by itself."""
    with changing(live, intervention):
        ids = live.generate([Prompt(prompt.ids, (), prompt.extras)], max_new_tokens=12)[0]
    return str(live.encoder.decode(ids)).strip()


@pytest.fixture(scope="module")
def swapping(speaking: Any) -> Intervention:
    """Deltas that make some of the dogs cats: solved on two pictures."""
    live = speaking
    examples = SPOKEN[:2]
    from ingest.solve.problem import Problem
    from ingest.solve.swaps import make_cases
    from ingest.solvers.word_swap import build

    cases = make_cases(feed_of(live, examples), list(enumerate(examples)), CAT, 2)
    return build(lr=0.03).solve(Problem(live, cases)).intervention


def examined(live: LiveModel, examples: Sequence[Example], swap: Swap, concept: str = "dog") -> SwapEvaluator:
    return SwapEvaluator(feed_of(live, examples), list(examples), swap, 3, concept)


def ask(evaluator: SwapEvaluator, intervention: Intervention) -> Scores:
    with changing(evaluator.live, intervention):
        return evaluator.evaluate()


@pytest.mark.parametrize("swap", [CAT, Swap("dog")], ids=["cat", "nothing"])
def test_every_number_is_that_of_a_plain_loop(swap: Swap, speaking: Any, swapping: Intervention) -> None:
    live, nothing = speaking, Intervention(())
    evaluator = examined(live, SPOKEN, swap)
    numbers = [case.number for case in evaluator.cases]
    assert numbers == [n for n, e in enumerate(SPOKEN) if "dog" in str(e.answer).split()]
    others = [e for e in SPOKEN if "dog" not in str(e.answer).split() and "dogs" not in str(e.answer).split()]
    assert [e for e, _ in evaluator.prompts] == [*(SPOKEN[n] for n in numbers), *others]
    before = [answer(live, prompt, nothing) for _, prompt in evaluator.prompts]
    for intervention in (nothing, swapping):
        scores = ask(evaluator, intervention)
        after = [answer(live, prompt, intervention) for _, prompt in evaluator.prompts]
        for i, case in enumerate(evaluator.cases):
            wanted = before[i].replace("dog", "cat")
            whole = after[i] == wanted if swap.wanted else "dog" not in after[i].split()
            assert scores.values["whole_success"][i] == whole
            assert scores.values["said"][i] == ("dog" in after[i].split())
            assert np.isnan(scores.values["whole_unchanged"][i])
            found = target_probabilities(live, case.item(original=True), intervention)
            assert scores.values["said_probability"][i] == pytest.approx(np.prod(found), rel=1e-3, abs=1e-6)
            if swap.wanted:
                item = case.item()
                found = target_probabilities(live, item, intervention)
                assert scores.values["wanted_probability"][i] == pytest.approx(np.prod(found), rel=1e-3, abs=1e-6)
                with changing(live, intervention):
                    capture, start, ids = one_pass(live, item, layers=[])
                first = live.logits(capture.norm_out[0]).argmax(-1).tolist()
                right = all(first[start + t.index - 1] == ids[start + t.index] for t in item.targets)
                assert scores.values["success"][i] == right
        for i in range(len(numbers), len(before)):
            assert scores.values["whole_unchanged"][i] == (after[i] == before[i])
            assert all(np.isnan(v[i]) for name, v in scores.values.items() if name != "whole_unchanged")
        assert ("success" in scores.values) == ("wanted_probability" in scores.values) == (swap.wanted is not None)
    assert {"said", "whole_success"} <= {n for n, v in scores.values.items() if np.nanmean(v) not in (0.0, 1.0)} or (
        0 < np.nanmean(scores.values["said_probability"]) < 1
    )


def test_the_first_answers_are_made_once_and_stored(speaking: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluator = examined(speaking, SPOKEN, CAT)
    asked: list[int] = []
    plain = LiveModel.generate

    def generate(self: LiveModel, prompts: Sequence[Prompt], **options: Any) -> list[list[int]]:
        asked.append(len(prompts))
        return plain(self, prompts, **options)

    monkeypatch.setattr(LiveModel, "generate", generate)
    count = len(evaluator.prompts)
    evaluator.evaluate()
    assert sum(asked) == count == len(evaluator.encoder.made)
    assert {r.text.strip() for r in evaluator.encoder.made} == {e.answer for e, _ in evaluator.prompts}
    second = SwapEvaluator(evaluator.encoder, SPOKEN, CAT, 3, "dog")  # other questions about the same examples
    second.evaluate()
    assert sum(asked) == count == len(evaluator.encoder.made)
    second.evaluate()  # as an edit would be: said anew, and not stored
    assert sum(asked) == 2 * count and len(evaluator.encoder.made) == count


def test_what_is_about_the_concept_without_its_word_is_neither(speaking: Any) -> None:
    examples = [*SPOKEN[:1], example("two dogs", prompt="two what ?"), example("a cat", media="5", mentions=("dog",))]
    evaluator = examined(speaking, examples, CAT)
    assert [e for e, _ in evaluator.prompts] == examples[:1]
    scores = evaluator.evaluate()
    assert [a.concept for a in scores.questions] == ["dog"]


def test_where_the_model_never_says_the_word_what_else_changes_is_still_measured(speaking: Any) -> None:
    examples = [replace(e, answer="a butterfly") if i == 0 else e for i, e in enumerate(SPOKEN)]
    evaluator = examined(speaking, examples, Swap("butterfly", "bee"), "butterfly")
    assert evaluator.cases == []
    scores = evaluator.evaluate()
    assert set(scores.values["whole_unchanged"].tolist()) == {1.0} and len(scores.questions) == len(SPOKEN) - 1
    rows = summarise({"before": [scores]}, "butterfly")
    assert {(r["subset"], r["metric"]) for r in rows} == {("others", "whole_unchanged")}


@pytest.fixture
def small_world(speaking: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Jobs run on what the speaking model was taught."""
    world = World(SPOKEN)
    monkeypatch.setattr("ingest.solve.solve.open_dataset", lambda job: world)
    monkeypatch.setattr("ingest.run.session.open_dataset", lambda job: world)
    monkeypatch.setattr("ingest.evaluate.from_edit.open_dataset", lambda job: world)
    monkeypatch.setattr("ingest.run.prepare.load_model", lambda job, execution: speaking)
    return world


def solved(path: Path, swap: Swap = CAT, name: str = "swap", **job: Any) -> Edit:
    content = {"dataset": "world", "max_new_tokens": 12} | job
    wanted = SolveSpec("word_swap", swap, {"lr": 0.03, "epochs": 12}, keep=4)
    return solve(path, name, wanted, make_job(content), Execution(batch_size=2))[0]


HELD_OUT = Job(split="held_out", max_new_tokens=12)


def test_a_solved_edit_is_stored_with_what_solves_it_again(empty_atlas: Path, small_world: Any, speaking: Any) -> None:
    edit = solved(empty_atlas)
    said = edit.provenance["solver"]
    assert (edit.label, edit.concept, edit.solver, said["name"]) == ("swap@1", "dog", "word_swap", "word_swap")
    assert said["swap"] == {"said": "dog", "wanted": "cat"} and said["params"]["lr"] == 0.03 and said["keep"] == 4
    assert said["cases"] == 4 and said["batch_size"] == 2 and said["report"]["epochs"] <= 12
    assert edit.fingerprint == speaking.fingerprint
    assert Atlas.open(empty_atlas).edit("swap").data == edit and check(empty_atlas) == []
    again = ingest.evaluate.from_edit.solving_again(edit, speaking)(edit.neurons)
    assert again == edit.intervention
    assert np.array_equal(np.asarray(again.deltas), np.asarray(edit.intervention.deltas))


def test_random_controls_are_solved_on_other_neurons_of_the_same_layers(
    empty_atlas: Path, small_world: Any, speaking: Any
) -> None:
    edit = solved(empty_atlas)
    notes: list[str] = []
    first, second = random_controls(empty_atlas, edit, speaking, 2, BY_LAYERS, notes)
    assert notes == [] and random_controls(empty_atlas, edit, speaking, 0, BY_LAYERS, notes) == []
    for control in (first, second):
        assert not set(control.neurons) & set(edit.neurons)
        assert sorted(n.layer for n in control.neurons) == sorted(n.layer for n in edit.neurons)
        assert np.abs(np.asarray(control.deltas)).max() > 0
    assert first.neurons != second.neurons
    assert random_controls(empty_atlas, edit, speaking, 1, BY_LAYERS, notes) == [first]


def test_what_cannot_be_solved_again_is_said(
    empty_atlas: Path, small_world: Any, speaking: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit = solved(empty_atlas)
    small_world._examples = []  # the examples are gone
    done: list[str] = []
    assert random_controls(empty_atlas, edit, speaking, 2, BY_LAYERS, done) == []
    assert len(done) == 1 and done[0].startswith("0 of 2 random controls: the edit could not be solved on others (")


@pytest.mark.parametrize("words", [CAT, Swap("red", "hot")], ids=["a concept's word", "no concept's word"])
def test_an_evaluation_has_success_beside_what_else_changes(
    words: Swap, empty_atlas: Path, small_world: Any, speaking: Any
) -> None:
    """Also where the edit is about no concept: the swapped examples are the concept's, the rest the others'."""
    job = {} if words == CAT else {"sources": ("text",)}
    edit = replace(solved(empty_atlas, words, **job), concept=None)
    done = evaluate(empty_atlas, edit, HELD_OUT, Execution(batch_size=3), seeds=1, controls="layers")
    assert len(done.notes) == 1 and done.notes[0].startswith("asks ")
    assert {r["concept"] for r in done.rows} == {"dog" if words == CAT else None}
    value = {
        (r["subset"], r["metric"], r["condition"]): (r["value"], r["examples"])
        for r in done.rows
        if r["task"] == POOLED and r["source"] == "text"
    }
    for condition in ("before", "edit", "random"):
        assert ("concept", "success", condition) in value and ("others", "success", condition) not in value
        assert ("others", "whole_unchanged", condition) in value
        assert ("concept", "whole_unchanged", condition) not in value
    assert value["concept", "success", "before"] == (0, 1) and value["concept", "said", "before"] == (1, 1)
    assert value["others", "whole_unchanged", "before"][0] == 1
    evaluator = SwapEvaluator(feed_of(speaking, SPOKEN), [e for e in SPOKEN if e.split == "held_out"], words, 3, "dog")
    ask(evaluator, Intervention(()))
    scores = ask(evaluator, edit.intervention)
    mine = [i for i, a in enumerate(scores.questions) if a.source == "text" and a.concept == "dog"]
    for metric in ("success", "said", "wanted_probability"):
        found = value["concept", metric, "edit"][0]
        assert found == pytest.approx(float(scores.values[metric][mine].mean()), rel=1e-3, abs=1e-6)
    assert check(empty_atlas) == []


def test_an_edit_by_one_question_is_measured_too(empty_atlas: Path, small_world: Any, speaking: Any) -> None:
    asked = ingest.solve.solve.PromptDataset("one word :", [], "dog")
    wanted = SolveSpec("word_swap", CAT, {"lr": 0.03, "epochs": 12})
    edit, solution = solve(
        empty_atlas, "one", wanted, make_job({"max_new_tokens": 12}), Execution(), prompt_dataset=asked
    )
    assert edit.concept is None and edit.provenance["asked"]["prompt"] == "one word :"
    assert solution.report["worst_after"] > solution.report["worst_before"]
    done = evaluate(empty_atlas, edit, HELD_OUT, Execution(), seeds=1)
    groups = {(r["subset"], r["metric"]) for r in done.rows if r["condition"] == "random"}
    assert ("concept", "success") in groups and ("others", "whole_unchanged") in groups
    assert {r["value"] for r in done.rows if (r["metric"], r["condition"]) == ("success", "before")} == {0.0}


def test_a_composed_edit_is_measured_by_the_one_swap_of_its_parts(
    empty_atlas: Path, small_world: Any, speaking: Any
) -> None:
    edit = solved(empty_atlas)
    calm = tuple(Change(n, 0.9) for n in (Neuron("language", 0, i) for i in range(64)) if n not in edit.neurons)[:3]
    about = {"fingerprint": edit.fingerprint, "concept": "dog"}
    edit_library.new(empty_atlas, "calm", Intervention(calm), about, model=edit.model)
    both = Atlas.open(empty_atlas).compose_edits("both", ["swap", "calm"]).data
    assert swap_of(both) == CAT and both.solver is None
    assert swap_of(Atlas.open(empty_atlas).edit("calm").data) is None
    done = evaluate(empty_atlas, both, HELD_OUT, Execution(batch_size=3), seeds=1, controls="layers")
    assert ("concept", "success", "random") in {(r["subset"], r["metric"], r["condition"]) for r in done.rows}
    assert len(done.notes) == 2 and "make its exact changes to other neurons: nothing is learned again" in done.notes[1]
    (first,) = random_controls(empty_atlas, both, speaking, 1, BY_LAYERS, [])
    assert np.array_equal(np.asarray(first.deltas), np.asarray(both.intervention.deltas))
    other = {"solver": {"swap": {"said": "cat", "wanted": "dog"}}}
    two = replace(both, provenance={**both.provenance, "parts": [edit.provenance, other]})
    assert swap_of(two) is None


def test_what_the_word_is_kept_from_comes_from_every_source(small_world: Any, speaking: Any) -> None:
    live, job = speaking, ingest.solve.solve.complete(Job(concepts=("dog",), max_new_tokens=12), small_world, EYES)
    for keep, count in ((2, 2), (100, 3)):
        items = ingest.solve.solve.keep_items(live, small_world, job, SolveSpec("word_swap", CAT, keep=keep), 4)
        texts = [live.encoder.decode(item.prompt.answer).strip() for item in items]
        assert len(items) == count and {"a cat", "a red cat meows"} == set(texts)
    assert ingest.solve.solve.keep_items(live, small_world, job, SolveSpec("word_swap", CAT, keep=0), 4) == []


def test_whole_layers_have_no_control(empty_atlas: Path, small_world: Any, speaking: Any) -> None:
    whole = tuple(Change(Neuron("language", 1, i), 0.5) for i in range(64))
    edit = replace(solved(empty_atlas), intervention=Intervention(whole))
    notes: list[str] = []
    assert random_controls(empty_atlas, edit, speaking, 3, BY_LAYERS, notes) == []
    assert notes == ["no random control: the edit changes every neuron of its layers"]
