"""The photographs and the facts in the package: licences, sizes, splits, and where the facts name their concepts."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from atlas.errors import UsageError
from ingest.data.examples import FIND, HELD_OUT, Example
from ingest.data.where_named import is_named
from ingest.datasets import coco, facts, photos, prompts

EVERY = 10**6


def examples_of(dataset: object, source: str, split: str, *tasks: str) -> list[Example]:
    chosen = tasks or dataset.tasks[source]  # type: ignore[attr-defined]
    return dataset.examples(  # type: ignore[attr-defined,no-any-return]
        source=source,
        split=split,
        concepts=list(dataset.concepts),
        tasks=chosen,
        per_concept=EVERY,
        seed=0,  # type: ignore[attr-defined]
    )


def test_every_photograph_has_a_free_licence_and_a_source() -> None:
    rows = json.loads((photos.FOLDER / "attribution.json").read_text())
    files = {file.name: file for file in (photos.FOLDER / "images").iterdir()}
    assert {row["file_name"] for row in rows} == set(files) and len(files) == 108
    assert {row["licence"] for row in rows} == {"CC BY 2.0", "CC BY-SA 2.0"}
    assert all(row["flickr_url"].startswith("http") for row in rows)
    for file in files.values():
        with Image.open(file) as picture:
            assert max(picture.size) <= 480
    everything = [file for file in photos.FOLDER.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in everything) <= 6_000_000


def test_every_concept_of_three_photographs_can_be_judged() -> None:
    dataset = photos.build()
    counts = {
        split: Counter(m.concept for e in examples_of(dataset, "image", split) for m in e.mentions)
        for split in (FIND, HELD_OUT)
    }
    for name in dataset.concepts:
        if counts[FIND][name] + counts[HELD_OUT][name] >= 3:
            assert counts[FIND][name] >= 2 and counts[HELD_OUT][name] >= 1, name
    pictures = [{e.media for e in examples_of(dataset, "image", split)} for split in (FIND, HELD_OUT)]
    assert not pictures[0] & pictures[1]
    shown = counts[FIND] + counts[HELD_OUT]
    assert sum(count >= 5 for name, count in shown.items() if name != "person") >= 15


def test_masks_fit_the_scaled_photographs() -> None:
    dataset = photos.build(classes="bear,bus")
    for example in examples_of(dataset, "image", FIND):
        picture, mask = dataset.image(example.media[0]), dataset.mask(example.media[0], example.mentions[0].concept)
        assert mask.any() and abs(picture.width / picture.height - mask.shape[1] / mask.shape[0]) < 0.05


def test_captions_are_in_the_split_of_their_photograph() -> None:
    dataset = photos.build()
    pictures = {split: {e.media[0] for e in examples_of(dataset, "image", split)} for split in (FIND, HELD_OUT)}
    captions = {
        split: {text for e in examples_of(dataset, "image", split) for text in e.references} for split in pictures
    }
    everyone = {text for texts in dataset._photographs._texts.values() for text in texts}
    of_none = everyone - captions[FIND] - captions[HELD_OUT]
    for example in examples_of(dataset, "text", FIND, "caption"):
        assert example.answer in (captions[FIND] | of_none) - captions[HELD_OUT]


def test_the_same_concepts_come_in_words() -> None:
    dataset, known = photos.build(), facts.build()
    for split in (FIND, HELD_OUT):
        ids = {e.id for e in examples_of(known, "text", split, "completion", "sentence")}
        assert {e.id for e in examples_of(dataset, "text", split)} == ids
        every = examples_of(dataset, "text", split, *dataset.all_tasks["text"])
        assert {e.task for e in every} == {"completion", "about", "sentence", "caption"}
    assert (
        dataset.examples(
            source="text", split=FIND, concepts=["wine glass"], tasks=["completion"], per_concept=3, seed=0
        )
        == []
    )


def test_a_split_that_others_wrote_is_not_ours(tmp_path: Path) -> None:
    content = json.loads((photos.FOLDER / "annotations" / "instances.json").read_text())
    for image in content["images"]:
        image["split"] = "test"
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances.json").write_text(json.dumps(content))
    (tmp_path / "images").symlink_to(photos.FOLDER / "images")
    dataset = coco.build(str(tmp_path))
    assert 10 <= len(examples_of(dataset, "image", HELD_OUT)) <= 35


def test_facts_are_about_things_in_the_photographs() -> None:
    dataset, shown = facts.build(), photos.build()
    assert set(dataset.concepts) <= set(shown.concepts)
    for name, concept in dataset.concepts.items():
        assert concept.forms == shown.concepts[name].forms, name


@pytest.mark.parametrize(
    ("task", "places"), [("completion", {"answer"}), ("about", {"prompt"}), ("sentence", {"both"})]
)
def test_where_facts_name_their_concept(task: str, places: set[str]) -> None:
    dataset = facts.build()
    for split in (FIND, HELD_OUT):
        for example in examples_of(dataset, "text", split, task):
            name = example.mentions[0].concept
            named = {where for where in ("prompt", "answer") if is_named(example, name, where, dataset.concepts)}
            assert (named if len(named) == 1 else {"both"}) == places, example


def test_facts_are_held_out_for_every_concept() -> None:
    dataset = facts.build()
    for task in ("completion", "about"):
        counts = Counter(m.concept for e in examples_of(dataset, "text", HELD_OUT, task) for m in e.mentions)
        lacking = set(dataset.concepts) - set(counts)
        assert lacking <= ({"spoon", "bowl", "skateboard"} if task == "about" else set()), lacking


@pytest.mark.parametrize("dataset", [photos, facts])
def test_a_path_is_refused(dataset: object) -> None:
    with pytest.raises(UsageError, match="comes with the package and reads no folder"):
        dataset.build("/somewhere")  # type: ignore[attr-defined]


def test_rows_of_prompts_may_say_their_split(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"It barks {n}", "answer": "a dog", "concepts": ["dog"], "fact": str(n), "split": split}
        for n, split in enumerate([HELD_OUT, FIND, HELD_OUT, FIND])
    ]
    file = tmp_path / "own.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    dataset = prompts.build(str(file))
    assert [len(examples_of(dataset, "text", split)) for split in (FIND, HELD_OUT)] == [2, 2]
    file.write_text("\n".join(map(json.dumps, [rows[0], {**rows[1], "fact": "0"}])))
    with pytest.raises(UsageError, match=r"own.jsonl.*2.*another wording of this fact is in the split held_out"):
        prompts.build(str(file))
    file.write_text(json.dumps({**rows[0], "split": "test"}))
    with pytest.raises(UsageError, match="the split is find or held_out, not 'test'"):
        prompts.build(str(file))
