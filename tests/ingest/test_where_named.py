"""Texts that name their concept in the prompt or the answer, the tokens that name it, and reference answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from atlas import Atlas
from atlas.errors import AtlasWarning, UsageError
from atlas.live.model import LiveModel
from ingest import zoo
from ingest.attribution.item import Item
from ingest.attribution.trace import traced
from ingest.data.answers import with_references
from ingest.data.examples import Concept, Example, Mention
from ingest.data.where_named import MOST, is_named, named_examples
from ingest.datasets import scenes
from ingest.job import Job, make_job
from ingest.methods import activation, gradient, gradient_x_activation, integrated_gradients
from ingest.run.encode_examples import ExampleEncoder
from ingest.run.prepare import collect
from ingest.run.resolve import complete

DOG, CAT = Concept("dog", ("dog", "dogs")), Concept("cat", ("cat", "cats"))
CONCEPTS = {"dog": DOG, "cat": CAT}


@pytest.fixture(scope="module")
def tiny() -> LiveModel:
    return LiveModel.load(zoo.resolve("tiny-llava"))


def job_of(**content: Any) -> Job:
    world = scenes.build()
    content = {"concepts": ["dog", "cat"], "per_concept": 2} | content
    return complete(make_job(content), world, frozenset({"text", "image"}))


def items_of(live: LiveModel, job: Job) -> tuple[ExampleEncoder, Sequence[Example], list[Item]]:
    world = scenes.build()
    examples = collect(job, world)
    encoder = ExampleEncoder(live, world, job)
    return encoder, examples, encoder.items(list(enumerate(examples)), 8)


def text(prompt: str, answer: str | None, *names: str) -> Example:
    return Example("text", "fact", "find", prompt, answer, tuple(map(Mention, names)))


@pytest.mark.parametrize(
    ("example", "places"),
    [
        (text("A puppy grows up to be a", "dog", "dog"), {"answer"}),
        (text("What do dogs do?", "they bark", "dog"), {"prompt"}),
        (text("Is a dog an animal?", "a dog is", "dog"), {"prompt", "answer", "both"}),
        (text("Is a hotdog food?", "yes", "dog"), set()),
    ],
)
def test_a_concept_is_named_by_its_forms(example: Example, places: set[str]) -> None:
    assert {where for where in ("prompt", "answer", "both") if is_named(example, "dog", where, CONCEPTS)} == places


@pytest.mark.parametrize("where", ["prompt", "answer"])
def test_a_job_takes_only_texts_that_name_the_concept_there(where: str) -> None:
    job = job_of(where_named=where, tasks=["does", "does_reverse"], sources=["text"])
    world = scenes.build()
    examples = collect(job, world)
    assert examples
    for example in examples:
        assert any(is_named(example, m.concept, where, world.concepts) for m in example.mentions)
    other = {"prompt": "answer", "answer": "prompt"}[where]
    others = {e.id for e in collect(job_of(where_named=other, tasks=["does", "does_reverse"], sources=["text"]), world)}
    assert not others & {e.id for e in examples}
    counts = {name: sum(m.concept == name for e in examples for m in e.mentions) for name in job.concepts}
    assert set(counts.values()) == {2}, "per_concept counts what is left, not what was looked at"


def test_examples_with_pictures_are_not_narrowed() -> None:
    world = scenes.build()
    plain, named = (collect(job_of(sources=["image"], **more), world) for more in ({}, {"where_named": "prompt"}))
    assert [e.id for e in plain] == [e.id for e in named]


def test_no_such_text_is_an_error_that_names_the_place() -> None:
    with pytest.raises(UsageError, match="names it in the both"):
        collect(job_of(where_named="both", tasks=["does"], sources=["text"]), scenes.build())
    with pytest.raises(UsageError, match="no where_named called 'question'; there are: prompt, answer, both"):
        make_job({"where_named": "question"})


def test_the_tokens_that_name_the_concept_are_read(tiny: LiveModel) -> None:
    job = job_of(methods={"activation": {"positions": "input"}}, where_named="prompt", tasks=["does"], sources=["text"])
    _, examples, items = items_of(tiny, job)
    assert len(items) == len(examples)
    method = activation.build(positions="input")
    with torch.no_grad(), traced(tiny, items, "text", layers=None, tap="product", grad=False) as trace:
        method.update(trace)
        values = {layer: trace.values(layer) for layer in trace.layers}
    sums: dict[str, list[torch.Tensor]] = {}
    for row, item in enumerate(items):
        for concept, positions in item.named.items():
            spoken = "".join(tiny.encoder.token(item.prompt.ids[p]) for p in positions).split()
            assert spoken and all(word.strip() in ("dog", "dogs", "cat", "cats") for word in spoken)
            at = torch.stack([values[layer][row, list(positions)].mean(0) for layer in trace.layers])
            sums.setdefault(concept, []).append(at)
    means = {m.concept: m for m in method.result() if m.reduce == "mean" and m.concept}
    assert set(means) == {"dog", "cat"}
    for concept, parts in sums.items():
        assert torch.allclose(means[concept].scores, torch.stack(parts).mean(0), atol=1e-6)
        assert means[concept].examples == len(parts)


def test_of_a_picture_input_is_the_picture(tiny: LiveModel) -> None:
    job = job_of(methods={"activation": {}}, tasks=["name"], sources=["image"])
    _, _, items = items_of(tiny, job)
    results = []
    for positions in ("input", "image"):
        method = activation.build(positions=positions)
        with torch.no_grad(), traced(tiny, items, "image", layers=None, tap="product", grad=False) as trace:
            method.update(trace)
        results.append({(m.concept, m.reduce): m.scores for m in method.result()})
    assert results[0].keys() == results[1].keys()
    assert all(torch.equal(results[0][key], results[1][key]) for key in results[0])


def test_a_prompt_that_does_not_name_it_is_counted_and_not_scored(tiny: LiveModel) -> None:
    job = job_of(methods={"activation": {"positions": "input"}}, tasks=["does", "does_reverse"], sources=["text"])
    encoder, _, items = items_of(tiny, job)
    unnamed = [item for item in items if not item.named]
    assert unnamed and sum(encoder.skipped.unnamed.values()) == len(unnamed)
    method = activation.build(positions="input")
    with torch.no_grad(), traced(tiny, items, "text", layers=None, tap="product", grad=False) as trace:
        method.update(trace)
    counted = {m.concept: m.examples for m in method.result() if m.reduce == "mean" and m.concept}
    assert sum(counted.values()) == sum(len(item.named) for item in items)


@pytest.mark.parametrize("method", [activation, gradient, gradient_x_activation, integrated_gradients])
def test_a_batch_that_names_nothing_is_no_error(tiny: LiveModel, method: Any) -> None:
    job = job_of(methods={"activation": {"positions": "input"}}, tasks=["does_reverse"], sources=["text"])
    _, _, items = items_of(tiny, job)
    assert items and not any(item.named for item in items)
    estimator = method.build(positions="input")
    with traced(tiny, items, "text", layers=None, tap="product", grad=True) as trace:
        estimator.update(trace)
    assert [m for m in estimator.result() if m.concept] == []


def test_letters_may_be_composed_by_the_tokenizer(tiny: LiveModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The prompt is found in what the tokenizer makes of it; where it is not, that is counted by itself."""
    concepts = {"cafe\u0301": Concept("cafe\u0301", ("cafe\u0301", "caf\xe9"))}
    job = job_of(methods={"activation": {"positions": "input"}}, tasks=["does"], sources=["text"])
    encoder = ExampleEncoder(tiny, scenes.build(), job)
    monkeypatch.setattr(encoder, "dataset", SimpleNamespace(concepts=concepts))
    said = {"text": "system: be kind. user: a caf\xe9 opens"}
    ends = list(range(1, len(said["text"]) + 1))  # a token a letter
    plain = SimpleNamespace(decode=lambda ids: said["text"], ends=lambda ids: ends)
    monkeypatch.setattr(encoder, "live", SimpleNamespace(encoder=plain))
    asked, prompt = text("a cafe\u0301 opens", "cafe\u0301", "at nine"), SimpleNamespace(ids=())
    target = [SimpleNamespace(concept="cafe\u0301")]
    named = encoder._named(asked, prompt, target)  # type: ignore[arg-type]
    place = said["text"].index("caf\xe9")
    assert named == {"cafe\u0301": tuple(range(place, place + 4))}
    said["text"] = "system: be kind. user: A CAFE OPENS"
    assert encoder._named(asked, prompt, target) == {}  # type: ignore[arg-type]
    assert encoder.skipped.rewritten == {"cafe\u0301": 1} and not encoder.skipped.unnamed


def test_a_world_without_end_is_not_looked_through_for_ever() -> None:
    asked: list[int] = []

    class Endless:
        concepts = CONCEPTS

        def examples(self, *, per_concept: int, concepts: list[str], **which: Any) -> list[Example]:
            asked.append(per_concept)
            return [text(f"what is {n}?", concepts[0], f"nothing {n}") for n in range(per_concept)]

    which: dict[str, Any] = {"source": "text", "split": "find", "concepts": ["dog"], "tasks": ["is"], "seed": 0}
    assert named_examples(Endless(), "prompt", **which, per_concept=3) == []  # type: ignore[arg-type]
    assert asked[-1] == MOST and len(asked) < 10


def test_the_run_says_what_was_left_out_and_its_id_depends_on_the_choice(empty_atlas: Path) -> None:
    opened = Atlas(empty_atlas)
    options: dict[str, Any] = {"methods": ["activation"], "sources": ["text"], "tasks": ["does", "does_reverse"]}
    options |= {"model": "tiny-llava", "dataset": "scenes", "concepts": ["dog", "cat"], "per_concept": 2}
    some = opened.ingest(**options, param={"activation.positions": "input"})
    assert any("prompts do not name it" in note for note in some.notes)
    all_named = opened.ingest(**options, param={"activation.positions": "input"}, where_named="prompt")
    assert all_named.notes == () or not any("do not name it" in note for note in all_named.notes)
    assert some.facts["run_id"] != all_named.facts["run_id"]


def test_the_reference_that_names_most_is_taken() -> None:
    references = ("An animal outside.", "A dog on grass.", "A dog and a cat on grass.", "A cat and a dog.")
    shown = Example("image", "caption", "find", "?", None, (Mention("dog"), Mention("cat")), ("a.jpg",), references)
    assert with_references([shown], CONCEPTS, ["dog", "cat"])[0].answer == references[2]
    assert with_references([shown], CONCEPTS, ["dog"])[0].answer == references[1]
    answered = text("?", "dog", "dog")
    assert with_references([answered], CONCEPTS, ["dog"]) == [answered]
    silent = Example("image", "caption", "find", "?", None, (Mention("dog"),), ("b.jpg",))
    with pytest.warns(AtlasWarning, match=f"1 of 2 examples have no reference answer .*; the first: {silent.id}"):
        [left] = with_references([shown, silent], CONCEPTS, ["dog"])
    assert left.answer == references[1]
    with pytest.raises(UsageError, match="none of the 1 examples without an answer has a reference"):
        with_references([silent], CONCEPTS, ["dog"])
