"""Which captions mention what: phrases, hyphens, other senses, LVIS's names."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from atlas.errors import AtlasWarning, UsageError
from ingest.data.examples import FIND, HELD_OUT, TEXT, Mention
from ingest.data.targets import mention_spans
from ingest.datasets import coco
from ingest.datasets._coco_words import containing, forms

NAMES = ("dog", "hot dog", "bear", "teddy bear", "orange", "airplane", "bowl", "bicycle", "motorcycle", "train", "skis")


def folder(root: Path, pictures: Sequence[tuple[str, Sequence[str]]], names: Sequence[Any] = NAMES) -> coco.Coco:
    return coco.build(str(written(root, pictures, names)))


def written(root: Path, pictures: Sequence[tuple[str, Sequence[str]]], names: Sequence[Any] = NAMES) -> Path:
    """Pictures of a caption and what is boxed in it each. names: of categories, or whole rows of them."""
    rows = [{"id": n, **(name if isinstance(name, Mapping) else {"name": name})} for n, name in enumerate(names)]
    number = {row["name"]: row["id"] for row in rows}
    images = [{"id": n, "file_name": f"{n}.png", "height": 4, "width": 4} for n in range(len(pictures))]
    boxes = [
        {"id": f"{n}/{name}", "image_id": n, "category_id": number[name], "bbox": [0, 0, 2, 2]}
        for n, (_, shown) in enumerate(pictures)
        for name in shown
    ]
    (root / "images").mkdir()
    for image in images:
        Image.new("RGB", (4, 4)).save(root / "images" / str(image["file_name"]))
    said = [{"image_id": n, "caption": caption} for n, (caption, _) in enumerate(pictures)]
    (root / "annotations").mkdir()
    for kind, whole in (
        ("instances", {"images": images, "annotations": boxes, "categories": rows}),
        ("captions", {"annotations": said}),
    ):
        (root / "annotations" / f"{kind}.json").write_text(json.dumps(whole))
    return root


def mentions(dataset: coco.Coco) -> dict[str, list[str]]:
    asked: dict[str, Any] = {"concepts": list(dataset.concepts), "tasks": ["caption"], "per_concept": 99, "seed": 0}
    found = [e for split in (FIND, HELD_OUT) for e in dataset.examples(source=TEXT, split=split, **asked)]
    return {str(e.answer): [m.concept for m in e.mentions] for e in found}


@pytest.mark.parametrize(
    ("caption", "found"),
    [
        ("A dog eats a hot-dog.", ["dog", "hot dog"]),
        ("A hot-dog.", ["hot dog"]),
        ("Hotdogs and a teddy-bear.", ["hot dog", "teddy bear"]),
        ("A stuffed bear.", ["teddy bear"]),
        ("A motor bike and a bike.", ["motorcycle", "bicycle"]),
        ("A dirt-bike.", ["motorcycle"]),
        ("Two oranges.", ["orange"]),
        ("A plane above a jet ski.", ["airplane"]),
    ],
)
def test_phrases_count_as_wholes(tmp_path: Path, caption: str, found: list[str]) -> None:
    assert mentions(folder(tmp_path, [(caption, found), ("Nothing.", NAMES)])) == {caption: found}


@pytest.mark.parametrize(
    "caption",
    ["A man on a jet ski.", "A cement bowl.", "A bike-rack.", "Empty train tracks.", "A ski jacket.", "A chili dog."],
)
def test_phrases_that_mean_something_else(tmp_path: Path, caption: str) -> None:
    assert mentions(folder(tmp_path, [(caption, NAMES), ("A dog.", ["dog"])])) == {"A dog.": ["dog"]}


def test_fewer_classes_bring_no_word_back(tmp_path: Path) -> None:
    written(tmp_path, [("A hot dog.", ["dog"]), ("A dog.", ["dog"]), ("A teddy-bear.", ["bear"])])
    dataset = coco.build(str(tmp_path), classes="dog,bear")
    assert mentions(dataset) == {"A dog.": ["dog"]}
    # Nor in what a model answers.
    assert mention_spans("a hot dog and a dog", Mention("dog"), dataset.concepts) == [(16, 19)]


def test_a_word_with_another_sense_needs_a_box(tmp_path: Path) -> None:
    dataset = folder(tmp_path, [("An orange shirt.", ["dog"]), ("An orange.", ["orange"]), ("Dogs train.", ["dog"])])
    with pytest.warns(AtlasWarning, match="left out.*orange 1x, as in 'An orange shirt.'; train 1x") as told:
        assert mentions(dataset) == {"An orange.": ["orange"], "Dogs train.": ["dog"]}
    assert len({str(one.message) for one in told}) == 1


def test_a_word_that_no_box_shows_mostly_is_told(tmp_path: Path) -> None:
    pictures = [(f"A puppy, number {n}.", ["dog"] if n == 0 else ["bear"]) for n in range(5)]
    with pytest.warns(AtlasWarning, match="no box confirms.*dog in 4 of 5, as in 'A puppy, number 1.'"):
        assert len(mentions(folder(tmp_path, pictures))) == 5


def test_lvis_names_and_synonyms(tmp_path: Path) -> None:
    names = [
        {"name": "dog_(animal)", "synonyms": ["dog", "hound_(animal)"]},
        {"name": "mouse_(animal_rodent)", "synonyms": ["mouse"]},
        {"name": "mouse_(computer_equipment)", "synonyms": ["mouse", "computer_mouse"]},
        "hot_dog",
    ]
    pictures = [
        ("Two hounds.", ["dog_(animal)"]),
        ("A mouse.", ["mouse_(animal_rodent)"]),
        ("A computer-mouse.", ["mouse_(computer_equipment)"]),
        ("A hot dog.", ["hot_dog"]),
    ]
    assert mentions(folder(tmp_path, pictures, names)) == {
        caption: [name] for caption, [name] in ((c, list(shown)) for c, shown in pictures)
    }


def test_a_form_of_two_categories_without_a_box_is_left_out(tmp_path: Path) -> None:
    dataset = folder(tmp_path, [("A mouse.", ["dog"]), ("A dog.", ["dog"])], ["dog", "mouse_(a)", "mouse_(b)"])
    with pytest.warns(AtlasWarning, match=r"mouse_\(a\) 1x, as in 'A mouse.'; mouse_\(b\) 1x"):
        assert mentions(dataset) == {"A dog.": ["dog"]}


def test_a_category_with_a_comma_can_be_named_on_the_command_line(tmp_path: Path) -> None:
    names = ["dog, hound", "cat"]
    written(tmp_path, [("A hound.", ["dog, hound"]), ("A cat.", ["cat"])], names)
    dataset = coco.build(str(tmp_path), classes="dog; hound")
    assert list(dataset.concepts) == ["dog; hound"]
    assert mentions(dataset) == {"A hound.": ["dog; hound"]}
    with pytest.raises(UsageError, match="no class called 'dog'; did you mean 'dog; hound'|there are"):
        coco.build(str(tmp_path), classes="dog, hound")


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("bow_(weapon)", ("bow_(weapon)", "bow", "bows")),
        ("Wall; Building", ("wall; building", "wall", "walls", "building", "buildings")),
        ("Pen/Pencil", ("pen/pencil", "pen", "pens", "pencil", "pencils")),
        ("T-Shirt", ("t-shirt", "t shirt", "t shirts")),
    ],
)
def test_forms_of_names_of_other_datasets(name: str, wanted: tuple[str, ...]) -> None:
    assert forms(name) == wanted


def test_longer_forms_of_others() -> None:
    every = {"dog": ["dog", "dogs"], "hot dog": ["hot dog", "hot dogs", "hotdog"], "cat": ["cat"]}
    assert containing(every) == {"dog": {"hot dog", "hot dogs"}, "hot dog": set(), "cat": set()}


def test_the_colour_is_no_orange_in_real_captions(shared_data: Path) -> None:
    """Two of the real captions say orange, of a shirt and of a cat; one has a cement bowl."""
    dataset = coco.build(str(shared_data / "coco_mini"))
    with pytest.warns(AtlasWarning, match="orange 2x, as in 'a man wearing an orange shirt"):
        found = mentions(dataset)
    assert not any("orange" in names for names in found.values())
    assert not any("bowl" in names for text, names in found.items() if "cement bowl" in text)
