"""The procedural world: the same everywhere, exact to the pixel, and without a fact that two things share."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scene_coco import write_coco

from atlas.errors import UsageError
from ingest.data.examples import FIND, HELD_OUT, IMAGE, TEXT, BadMedia, Example
from ingest.datasets import scenes
from ingest.datasets._world import DRAWN, FACTS, PICTURE_TASKS, THINGS, vocabulary, wordings

WORLD = scenes.build()
ADDRESSES = [*WORLD.addresses(FIND, 80), *WORLD.addresses(HELD_OUT, 20)]


def ask(
    source: str, split: str, tasks: list[str], concepts: list[str], number: int = 6, seed: int = 0
) -> list[Example]:
    return WORLD.examples(source=source, split=split, concepts=concepts, tasks=tasks, per_concept=number, seed=seed)


def test_there_are_enough_things_and_every_fact_is_of_one_thing_only() -> None:
    assert len(DRAWN) >= 16
    assert len(THINGS) >= 32
    words = Counter(word for thing in THINGS for word in (thing.name, *(thing.fact(f) for f in FACTS), *thing.signs))
    assert set(words.values()) == {1}
    assert sum(bool(thing.pieces) for thing in DRAWN) >= 2
    assert all("".join(thing.pieces) in ("", f" {thing.name}") for thing in THINGS)
    assert not {thing.name for thing in THINGS if thing.pieces} & set(vocabulary())


def test_two_worlds_of_one_seed_are_equal_and_of_two_seeds_are_not() -> None:
    again, other = scenes.build(seed=0), scenes.build(seed=1)
    assert again.revision == WORLD.revision != other.revision
    for address in ADDRESSES[::9]:
        assert again.image(address).tobytes() == WORLD.image(address).tobytes() != other.image(address).tobytes()
        assert again.caption(address) == WORLD.caption(address)


def test_pictures_are_small_rgb_and_all_different() -> None:
    pictures = [WORLD.image(address) for address in ADDRESSES]
    assert {(picture.mode, picture.size) for picture in pictures} == {("RGB", (64, 64))}
    assert len({picture.tobytes() for picture in pictures}) == len(pictures)
    assert Counter(len(WORLD.shown(address)) for address in WORLD.addresses(FIND, 72)) == {1: 36, 2: 18, 3: 18}


@pytest.mark.parametrize("address", ADDRESSES[::4])
def test_a_mask_is_exactly_what_the_counterfactual_changes(address: str) -> None:
    picture = np.asarray(WORLD.image(address))
    for name in WORLD.shown(address):
        changed = (picture != np.asarray(WORLD.counterfactual(address, name))).any(-1)
        mask = WORLD.mask(address, name)
        assert mask.dtype == bool
        assert mask.sum() > 60
        assert np.array_equal(changed, mask)
    absent = next(thing.name for thing in THINGS if thing.name not in WORLD.shown(address))
    assert not WORLD.mask(address, absent).any()
    assert WORLD.counterfactual(address, absent).tobytes() == WORLD.image(address).tobytes()


def test_masks_of_one_picture_do_not_overlap() -> None:
    for address in ADDRESSES:
        masks = [WORLD.mask(address, name) for name in WORLD.shown(address)]
        assert np.sum(masks, axis=0).max() == 1


@pytest.mark.parametrize(
    "address", ["", "find", "find/", "find/01", "find/-1", "train/3", "find/12345678", "../find/3"]
)
def test_an_address_of_no_scene_is_bad_media(address: str) -> None:
    with pytest.raises(BadMedia, match="find/123"):
        WORLD.image(address)


@pytest.mark.parametrize(("source", "tasks"), [(IMAGE, list(PICTURE_TASKS)), (TEXT, list(scenes.TASKS[TEXT]))])
def test_examples_keep_the_contract(source: str, tasks: list[str]) -> None:
    concepts = [thing.name for thing in DRAWN]
    ids = {}
    for split in (FIND, HELD_OUT):
        examples = ask(source, split, tasks, concepts)
        ids[split] = {example.id for example in examples}
        assert len(ids[split]) == len(examples)
        assert [e.id for e in examples] == [e.id for e in ask(source, split, tasks, concepts)]
        assert ids[split] != {e.id for e in ask(source, split, tasks, concepts, seed=1)}
        for example in examples:
            assert (example.source, example.split, bool(example.media)) == (source, split, source == IMAGE)
            assert example.mentions
            if example.target == IMAGE:  # the answer is to be drawn
                assert example.answer is None and example.task.startswith("draw")
                continue
            assert example.answer is not None
            for mention in example.mentions:
                told = [mention.words] if mention.words else WORLD.concepts[mention.concept].forms
                assert any(form in example.answer.split() or form in example.answer for form in told)
        asked = Counter((e.task, m.concept) for e in examples if e.task != "caption" for m in e.mentions)
        assert set(asked.values()) <= set(range(1, 7))
        assert len(asked) == (len(tasks) - (source == IMAGE)) * len(concepts)
    assert not ids[FIND] & ids[HELD_OUT]


def test_held_out_shares_no_picture_and_no_wording() -> None:
    for source in (IMAGE, TEXT):
        find, held_out = (ask(source, split, list(FACTS), ["dog"], 100) for split in (FIND, HELD_OUT))
        assert not {e.prompt for e in find} & {e.prompt for e in held_out}
        assert not {e.media for e in find if e.media} & {e.media for e in held_out if e.media}
    for task in (*PICTURE_TASKS, "does_reverse"):
        assert len(wordings(task, FIND)) == 3 * len(wordings(task, HELD_OUT)) == 12


def test_an_example_that_shows_two_concepts_appears_once() -> None:
    every = ask(IMAGE, FIND, ["caption"], ["dog", "cat"], 400)
    both = [e for e in every if {"dog", "cat"} <= {m.concept for m in e.mentions}]
    assert both
    assert len({e.id for e in every}) == len(every)


def test_answers_tell_the_facts() -> None:
    answers = {e.task: e.answer for e in ask(TEXT, FIND, ["does", "does_reverse", "lives", "has", "kind"], ["dog"], 1)}
    assert answers == {"does": "barks", "does_reverse": "dog", "lives": "kennel", "has": "collar", "kind": "animal"}
    assert ask(IMAGE, FIND, ["name"], ["cow"]) == []


@pytest.mark.parametrize(
    "change", [{"source": "sound"}, {"split": "test"}, {"concepts": ["dgo"]}, {"tasks": ["name_reverse"]}]
)
def test_what_the_world_does_not_have_is_a_usage_error(change: dict[str, Any]) -> None:
    request: dict[str, Any] = {"source": TEXT, "split": FIND, "concepts": ["dog"], "tasks": ["does"]}
    with pytest.raises(UsageError):
        WORLD.examples(**{**request, **change}, per_concept=1, seed=0)


def test_a_folder_is_refused() -> None:
    with pytest.raises(UsageError, match="reads no folder"):
        scenes.build("somewhere")


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools under numpy 2
def test_coco_folder_is_read_back_by_pycocotools(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pycocotools.coco import COCO

    write_coco(WORLD, tmp_path, 30, split=HELD_OUT)
    instances = COCO(tmp_path / "annotations" / "instances.json")
    captions = COCO(tmp_path / "annotations" / "captions.json")
    assert len(instances.getImgIds()) == len(captions.getImgIds()) == 30
    assert {c["name"]: c["supercategory"] for c in instances.loadCats(instances.getCatIds())} == {
        thing.name: thing.kind for thing in DRAWN
    }
    for record in instances.loadImgs(instances.getImgIds()):
        address = f"{HELD_OUT}/{record['id']}"
        with Image.open(tmp_path / "images" / record["file_name"]) as stored:
            assert stored.tobytes() == WORLD.image(address).tobytes()
        found = instances.loadAnns(instances.getAnnIds(imgIds=record["id"]))
        names = [instances.loadCats(annotation["category_id"])[0]["name"] for annotation in found]
        assert tuple(names) == WORLD.shown(address)
        for annotation, name in zip(found, names, strict=True):
            mask = WORLD.mask(address, name)
            assert np.array_equal(instances.annToMask(annotation).astype(bool), mask)
            assert annotation["area"] == mask.sum()
        (told,) = captions.loadAnns(captions.getAnnIds(imgIds=record["id"]))
        assert told["caption"] == WORLD.caption(address)
    capsys.readouterr()


def test_the_world_loads_without_torch() -> None:
    code = "import sys, ingest.datasets.scenes; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_project_own_coco_loader_reads_it_back(tmp_path: Path) -> None:
    from ingest.datasets import coco

    write_coco(WORLD, tmp_path, 40, split=HELD_OUT)
    loaded = coco.build(str(tmp_path))
    examples = loaded.examples(
        source=IMAGE, split=FIND, concepts=["dog"], tasks=["caption"], per_concept=50, seed=0
    ) + loaded.examples(source=IMAGE, split=HELD_OUT, concepts=["dog"], tasks=["caption"], per_concept=50, seed=0)
    shown = [address for address in WORLD.addresses(HELD_OUT, 40) if "dog" in WORLD.shown(address)]
    assert len(examples) == len(shown) > 0
    masks = sorted(int(loaded.mask(e.media[0], "dog").sum()) for e in examples)
    assert masks == sorted(int(WORLD.mask(address, "dog").sum()) for address in shown)
    said = loaded.examples(source=TEXT, split=FIND, concepts=["dog"], tasks=["caption"], per_concept=50, seed=0)
    assert all("dog" in str(e.answer) for e in said)
