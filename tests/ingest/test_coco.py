"""The COCO loader, on a folder that the test writes and on real photographs where there are any."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as runs

from atlas.errors import AtlasError, IntegrityError, UsageError
from ingest.data.examples import FIND, HELD_OUT, IMAGE, TEXT, BadMedia, Dataset, Example
from ingest.data.media import open_image
from ingest.datasets import coco
from ingest.datasets._coco_masks import mask_of
from ingest.datasets._coco_words import forms, plural

HEIGHT, WIDTH = 8, 12
DOG, CAT, PERSON, HOT_DOG = 18, 17, 1, 58


def box(top: int, bottom: int, left: int, right: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def polygon(top: int, bottom: int, left: int, right: int) -> list[int]:
    return [left, top, right, top, right, bottom, left, bottom]


def counts(mask: np.ndarray) -> list[int]:
    """Uncompressed run lengths, column by column, the first of them of zeros."""
    lengths, value = [0], False
    for pixel in mask.ravel(order="F"):
        if pixel != value:
            lengths.append(0)
            value = pixel
        lengths[-1] += 1
    return lengths


def compressed(mask: np.ndarray) -> dict[str, Any]:
    coded = runs.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [HEIGHT, WIDTH], "counts": coded["counts"].decode("ascii")}


def pairs(top: int, bottom: int, left: int, right: int) -> list[list[int]]:
    flat = polygon(top, bottom, left, right)
    return [flat[i : i + 2] for i in range(0, 8, 2)]


def printed(mask: np.ndarray) -> dict[str, Any]:
    """As `str(rle)` of a script that did not decode its bytes."""
    rle = compressed(mask)
    return rle | {"counts": str(rle["counts"].encode())}


OUTLINES: dict[str, tuple[Any, np.ndarray]] = {
    "polygon": ([polygon(1, 4, 2, 7)], box(1, 4, 2, 7)),
    "two polygons": ([polygon(0, 2, 0, 3), polygon(5, 8, 6, 9)], box(0, 2, 0, 3) | box(5, 8, 6, 9)),
    "polygon and a line": ([polygon(1, 4, 2, 7), [0, 0, 5, 5]], box(1, 4, 2, 7)),
    "numbers": ({"size": [HEIGHT, WIDTH], "counts": counts(box(2, 6, 3, 9))}, box(2, 6, 3, 9)),
    "text": (compressed(box(0, 8, 11, 12)), box(0, 8, 11, 12)),
    "flat": (polygon(1, 4, 2, 7), box(1, 4, 2, 7)),
    "points": (pairs(1, 4, 2, 7), box(1, 4, 2, 7)),
    "two of points": ([pairs(0, 2, 0, 3), pairs(5, 8, 6, 9)], box(0, 2, 0, 3) | box(5, 8, 6, 9)),
    "points and numbers": ([pairs(0, 2, 0, 3), polygon(5, 8, 6, 9)], box(0, 2, 0, 3) | box(5, 8, 6, 9)),
    "several texts": (
        [compressed(box(0, 8, 11, 12)), compressed(box(0, 1, 0, 1))],
        box(0, 8, 11, 12) | box(0, 1, 0, 1),
    ),
    "text and numbers": (
        [compressed(box(0, 8, 11, 12)), {"size": [HEIGHT, WIDTH], "counts": counts(box(2, 6, 3, 9))}],
        box(0, 8, 11, 12) | box(2, 6, 3, 9),
    ),
    "printed bytes": (printed(box(2, 6, 3, 9)), box(2, 6, 3, 9)),
    "none": (None, box(3, 5, 4, 6)),
    "empty": ([], box(3, 5, 4, 6)),
    "an empty polygon": ([[]], box(3, 5, 4, 6)),
    "a line": ([[0, 0, 5, 5]], box(3, 5, 4, 6)),
    "a line of points": ([[0, 0], [5, 5]], box(3, 5, 4, 6)),
}
BOX = [4, 3, 2, 2]  # of the last five: left, top, width, height


def instance(number: int, image: int, category: int, outline: Any, crowd: int = 0) -> dict[str, Any]:
    row = {"id": number, "image_id": image, "category_id": category, "segmentation": outline, "iscrowd": crowd}
    return row | {"bbox": BOX, "area": 4}


CAPTIONS = {
    1: ["Two dogs and a HOT DOG on a table.", "A puppy sleeps."],
    2: ["A man eats a hot  dog.", "Nothing to see."],
    3: ["A cat.", "People with mice."],
    4: ["A dog."],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four pictures; picture 1 has a dog of every kind of outline, one a picture is enough for the others."""
    root = tmp_path / "coco"
    (root / "annotations").mkdir(parents=True)
    (root / "images").mkdir()
    for number in CAPTIONS:
        noise = np.random.default_rng(number).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(noise).save(root / "images" / f"{number:012}.png")
    crowd = {"size": [HEIGHT, WIDTH], "counts": counts(box(6, 8, 0, 12))}
    write(
        root,
        images=[
            {"id": n, "file_name": f"{n:012}.png", "height": HEIGHT, "width": WIDTH, "license": 1} for n in CAPTIONS
        ],
        annotations=[
            instance(1, 1, DOG, OUTLINES["polygon"][0]),
            instance(2, 2, HOT_DOG, OUTLINES["text"][0]),
            instance(3, 2, PERSON, crowd, crowd=1),
            instance(4, 2, PERSON, OUTLINES["polygon"][0]),
            instance(5, 3, CAT, OUTLINES["numbers"][0]),
            instance(6, 4, DOG, OUTLINES["two polygons"][0]),
        ],
        categories=[
            {"id": PERSON, "name": "person", "supercategory": "person"},
            {"id": CAT, "name": "cat", "supercategory": "animal"},
            {"id": DOG, "name": "dog", "supercategory": "animal"},
            {"id": HOT_DOG, "name": "hot dog", "supercategory": "food"},
            {"id": 500, "name": "Golden_Retriever"},
        ],
        licenses=[{"id": 1, "name": "CC BY 2.0"}],
    )
    said = [{"id": i, "image_id": n, "caption": c} for n, texts in CAPTIONS.items() for i, c in enumerate(texts)]
    (root / "annotations" / "captions_val2017.json").write_text(json.dumps({"images": [], "annotations": said}))
    return root


def write(root: Path, **changed: Any) -> None:
    file = root / "annotations" / "instances_val2017.json"
    old = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(old | changed))


def content(root: Path) -> Any:
    return json.loads((root / "annotations" / "instances_val2017.json").read_text())


def every(dataset: Dataset, source: str, split: str | None = None, **changed: Any) -> list[Example]:
    asked: dict[str, Any] = {"concepts": list(dataset.concepts), "tasks": ["caption"], "per_concept": 10_000, "seed": 0}
    splits = [FIND, HELD_OUT] if split is None else [split]
    return [e for s in splits for e in dataset.examples(source=source, split=s, **(asked | changed))]


# What it reads


def test_categories_keep_their_ids_names_and_supercategories(folder: Path) -> None:
    dataset: Dataset = coco.build(str(folder))
    assert list(dataset.concepts) == ["person", "cat", "dog", "hot dog", "Golden_Retriever"]
    assert dataset.concepts["hot dog"].category_id == HOT_DOG
    assert dataset.concepts["dog"].supercategory == "animal"
    assert dataset.concepts["Golden_Retriever"].supercategory is None
    assert dataset.concepts["Golden_Retriever"].forms == ("golden_retriever", "golden retriever", "golden retrievers")
    assert (dataset.name, dataset.path, dataset.licence) == ("coco", str(folder), "CC BY 2.0")


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("dog", "dogs"),
        ("bus", "buses"),
        ("bench", "benches"),
        ("toothbrush", "toothbrushes"),
        ("wine glass", "wine glasses"),
        ("knife", "knives"),
        ("mouse", "mice"),
        ("person", "people"),
        ("sheep", "sheep"),
        ("scissors", "scissors"),
        ("cherry", "cherries"),
        ("toy", "toys"),
    ],
)
def test_plurals(name: str, wanted: str) -> None:
    assert plural(name) == wanted
    assert forms(name)[0] == name
    assert wanted in forms(name)


def test_forms_of_a_person() -> None:
    assert {"person", "people", "persons", "man", "men", "women", "children"} <= set(forms("person"))
    assert len(set(forms("person"))) == len(forms("person"))


def test_the_pictures_are_examples_that_the_model_itself_answers(folder: Path) -> None:
    found = {e.media: e for e in every(coco.build(str(folder)), IMAGE)}
    assert set(found) == {(f"images/{n:012}.png",) for n in CAPTIONS}
    two = found["images/000000000002.png",]
    assert (two.prompt, two.answer, two.task) == ("Describe the image in few words.", None, "caption")
    assert [(m.concept, m.words) for m in two.mentions] == [("person", None), ("hot dog", None)]


def test_human_captions_are_examples_without_a_picture(folder: Path) -> None:
    found = {e.answer: e for e in every(coco.build(str(folder)), TEXT)}
    mentions = {answer: [m.concept for m in e.mentions] for answer, e in found.items()}
    assert mentions == {
        "Two dogs and a HOT DOG on a table.": ["dog", "hot dog"],
        "A puppy sleeps.": ["dog"],
        "A man eats a hot  dog.": ["person", "hot dog"],
        "A cat.": ["cat"],
        "People with mice.": ["person"],
        "A dog.": ["dog"],
    }
    assert all(e.media == () and e.source == TEXT for e in found.values())


def test_no_captions_no_text(folder: Path) -> None:
    (folder / "annotations" / "captions_val2017.json").unlink()
    dataset = coco.build(str(folder))
    assert dataset.tasks[TEXT] == ()
    assert every(dataset, TEXT, tasks=[]) == []
    with pytest.raises(UsageError, match="no task called 'caption'"):
        every(dataset, TEXT)
    assert len(every(dataset, IMAGE)) == 4


@pytest.mark.parametrize("kind", OUTLINES)
def test_every_form_of_outline_to_the_pixel(folder: Path, kind: str) -> None:
    outline, wanted = OUTLINES[kind]
    write(folder, annotations=[instance(1, 1, DOG, outline)])
    dataset = coco.build(str(folder))
    found = dataset.mask("images/000000000001.png", "dog")
    assert found.dtype == bool
    np.testing.assert_array_equal(found, wanted)
    assert not dataset.mask("images/000000000001.png", "cat").any()


def test_a_crowd_and_a_person_are_one_mask(folder: Path) -> None:
    found = coco.build(str(folder)).mask("images/000000000002.png", "person")
    np.testing.assert_array_equal(found, box(6, 8, 0, 12) | box(1, 4, 2, 7))


@pytest.mark.parametrize(
    "outline",
    [
        {"size": [9, 9], "counts": "abc"},
        {"size": [HEIGHT, WIDTH]},
        {"size": [HEIGHT, WIDTH], "counts": [-3, "x"]},
        {"size": [HEIGHT, WIDTH], "counts": [5, 500]},
        {"size": [HEIGHT, WIDTH], "counts": "PPPPPPPPPPPPPPPPPPP"},
        [["a", "b", "c", "d", "e", "f"]],
        "text",
        7,
        {},
        [{"x": 1, "y": 2}, {"x": 3, "y": 2}, {"x": 3, "y": 5}],
        [[1, 2, 3, 4, 5, 6, 7]],
        [1, 2, 3, 4, 5, 6, 7],
        [[1, 2], [3, 4], [5, 6], 7, 8],
        [[1, 2, 0], [3, 4, 0], [5, 6]],
        [compressed(box(0, 1, 0, 1)), polygon(1, 4, 2, 7)],
        [[[[1, 2], [3, 4], [5, 6]]]],
        [[True, 2, 3, 4, 5, 6]],
    ],
)
def test_an_outline_of_no_known_form_names_its_annotation(folder: Path, outline: Any) -> None:
    write(folder, annotations=[instance(77, 1, DOG, outline)])
    with pytest.raises(IntegrityError, match="annotation 77: its segmentation cannot be read"):
        coco.build(str(folder)).mask("images/000000000001.png", "dog")


def test_run_lengths_as_bytes() -> None:
    rle = runs.encode(np.asfortranarray(box(2, 6, 3, 9), dtype=np.uint8))
    found = mask_of({"id": 1, "segmentation": rle}, HEIGHT, WIDTH)
    np.testing.assert_array_equal(found, box(2, 6, 3, 9))


def test_neither_an_outline_nor_a_box(folder: Path) -> None:
    write(folder, annotations=[{"id": 77, "image_id": 1, "category_id": DOG}])
    with pytest.raises(IntegrityError, match="annotation 77: .*no bbox of four numbers"):
        coco.build(str(folder)).mask("images/000000000001.png", "dog")


@pytest.mark.parametrize("place", ["images/val2017", "val2017", "."])
def test_pictures_are_found_where_people_keep_them(folder: Path, place: str) -> None:
    (folder / "images").rename(folder / "kept")
    (folder / place).mkdir(parents=True, exist_ok=True)
    for file in (folder / "kept").iterdir():
        shutil.copy(file, folder / place / file.name)
    shutil.rmtree(folder / "kept")
    dataset = coco.build(str(folder))
    [example] = every(dataset, IMAGE, concepts=["cat"])
    assert example.media == ("000000000003.png" if place == "." else f"{place}/000000000003.png",)
    assert dataset.image(example.media[0]).size == (WIDTH, HEIGHT)
    assert dataset.mask(example.media[0], "cat").any()


def test_names_with_a_folder_in_them(folder: Path) -> None:
    (folder / "images").rename(folder / "val2017")
    write(folder, images=[i | {"file_name": f"val2017/{i['file_name']}"} for i in content(folder)["images"]])
    [example] = every(coco.build(str(folder)), IMAGE, concepts=["cat"])
    assert example.media == ("val2017/000000000003.png",)


# Which examples


def many(folder: Path, number: int = 200) -> None:
    write(
        folder,
        images=[{"id": n, "file_name": f"{n:012}.png", "height": HEIGHT, "width": WIDTH} for n in range(1, number)],
        annotations=[instance(n, n, DOG, None) for n in range(1, number)],
    )
    said = [{"id": n, "image_id": n, "caption": f"A dog, number {n // 2}."} for n in range(1, number)]
    (folder / "annotations" / "captions_val2017.json").write_text(json.dumps({"annotations": said}))


def test_the_splits_share_no_picture_and_no_caption(folder: Path) -> None:
    many(folder)
    dataset = coco.build(str(folder))
    for source, key in ((IMAGE, "media"), (TEXT, "answer")):
        find = {getattr(e, key) for e in every(dataset, source, FIND)}
        held = {getattr(e, key) for e in every(dataset, source, HELD_OUT)}
        assert find and held
        assert not find & held
    share = len(every(dataset, IMAGE, HELD_OUT)) / 199
    assert 0.1 < share < 0.3


def test_the_seed_decides_and_nothing_else(folder: Path) -> None:
    many(folder)
    one, two = coco.build(str(folder)), coco.build(str(folder))
    ten = [e.id for e in every(one, IMAGE, FIND, per_concept=10)]
    assert len(ten) == 10
    assert ten == [e.id for e in every(two, IMAGE, FIND, per_concept=10)]
    assert ten != [e.id for e in every(one, IMAGE, FIND, per_concept=10, seed=1)]
    assert ten[:5] == [e.id for e in every(one, IMAGE, FIND, per_concept=5)]


def test_pictures_whose_captions_mention_the_concept_come_first(folder: Path) -> None:
    many(folder)
    said = [{"id": n, "image_id": n, "caption": "A dog." if n % 3 == 0 else "Grass."} for n in range(1, 200)]
    (folder / "annotations" / "captions_val2017.json").write_text(json.dumps({"annotations": said}))
    chosen = every(coco.build(str(folder)), IMAGE, FIND, per_concept=20)
    assert all(int(e.media[0][-16:-4]) % 3 == 0 for e in chosen)


def test_a_picture_of_two_concepts_is_one_example(folder: Path) -> None:
    found = every(coco.build(str(folder)), IMAGE, concepts=["person", "hot dog"])
    assert [e.media for e in found] == [("images/000000000002.png",)]


def test_the_revision_changes_with_what_decides_the_examples(folder: Path) -> None:
    first = coco.build(str(folder))
    assert coco.build(str(folder)).revision == first.revision
    assert coco.build(str(folder), seed=5).revision == first.revision, "a seed that chooses nothing"
    assert coco.build(str(folder), max_samples=2).revision != first.revision
    assert coco.build(str(folder), classes="dog").revision != first.revision
    write(folder, info={"year": 1})
    assert coco.build(str(folder)).revision != first.revision


def test_classes_and_max_samples_narrow_the_dataset(folder: Path) -> None:
    dataset = coco.build(str(folder), classes="dog, cat")
    assert list(dataset.concepts) == ["cat", "dog"]
    assert len(every(dataset, IMAGE)) == 3
    assert len(every(coco.build(str(folder), max_samples=2), IMAGE)) == 2
    with pytest.raises(UsageError, match="no class called 'dgo'; did you mean 'dog'"):
        coco.build(str(folder), classes="dgo")
    with pytest.raises(UsageError, match="no picture shows Golden_Retriever"):
        coco.build(str(folder), classes="Golden_Retriever")


def test_subset_chooses_between_annotation_files(folder: Path) -> None:
    shutil.copy(folder / "annotations" / "instances_val2017.json", folder / "annotations" / "instances_train2017.json")
    with pytest.raises(IntegrityError, match="two images have the id 1; read one file with options='subset=val2017'"):
        coco.build(str(folder))
    assert len(every(coco.build(str(folder), subset="val2017"), IMAGE)) == 4


# What it refuses


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        ({"concepts": ["dgo"]}, "no concept called 'dgo'; did you mean 'dog'"),
        ({"tasks": ["capt"]}, "no task called 'capt'; did you mean 'caption'"),
        ({"source": "audio"}, "no source called 'audio'; there are: image, text"),
        ({"split": "train"}, "no split called 'train'; there are: find, held_out"),
    ],
)
def test_what_does_not_exist_is_named(folder: Path, asked: dict[str, Any], match: str) -> None:
    whole: dict[str, Any] = {"source": IMAGE, "split": FIND, "concepts": ["dog"], "tasks": ["caption"]}
    with pytest.raises(UsageError, match=match):
        coco.build(str(folder)).examples(**(whole | asked), per_concept=1, seed=0)


def spoil_json(folder: Path) -> None:
    file = folder / "annotations" / "instances_val2017.json"
    file.write_bytes(file.read_bytes()[:200])


@pytest.mark.parametrize(
    ("damage", "kind", "match"),
    [
        (lambda f: shutil.rmtree(f), UsageError, "there is no folder"),
        (lambda f: shutil.rmtree(f / "annotations"), UsageError, "is not a COCO folder"),
        (lambda f: (f / "annotations/instances_val2017.json").unlink(), UsageError, r"has no instances\*"),
        (spoil_json, IntegrityError, "cannot be read.*download it again"),
        (lambda f: write(f, images=[]), UsageError, "no pictures in its annotation files"),
        (lambda f: write(f, categories=[]), UsageError, "no categories in its annotation files"),
        (lambda f: write(f, annotations=None), IntegrityError, "lacks a list of"),
        (lambda f: write(f, images=[1]), IntegrityError, "a row is not an object"),
        (lambda f: write(f, images=[{"id": 1}]), IntegrityError, "has no valid file_name"),
        (lambda f: write(f, images=[{"file_name": "a.png"}]), IntegrityError, "has no valid id"),
        (lambda f: write(f, annotations=[instance(3, 1, 999, None)]), IntegrityError, "annotation 3 has category 999"),
        (lambda f: shutil.rmtree(f / "images"), UsageError, "none of the pictures is below"),
    ],
)
def test_a_damaged_folder_says_what_is_wrong(
    folder: Path, damage: Callable[[Path], object], kind: type[AtlasError], match: str
) -> None:
    damage(folder)
    with pytest.raises(kind, match=match):
        coco.build(str(folder))


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../secret.png", "a/../../b.png", "C:\\x.png", "..\\x.png", "", "a\0.png"]
)
def test_a_picture_name_that_leads_out_is_refused(folder: Path, name: str) -> None:
    write(folder, images=[{"id": 1, "file_name": name, "height": HEIGHT, "width": WIDTH}])
    with pytest.raises(BadMedia, match="leads out of the dataset's folder"):
        coco.build(str(folder))


def test_a_link_out_of_the_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    file = folder / "images" / "000000000001.png"
    file.rename(secret)
    file.symlink_to(secret)
    with pytest.raises(BadMedia, match="is a link out of the dataset's folder"):
        coco.build(str(folder)).image("images/000000000001.png")


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda file: file.unlink(), "is missing"),
        (lambda file: file.write_bytes(file.read_bytes()[:120]), "is corrupt or truncated"),
        (lambda file: file.write_bytes(b""), "is not a picture"),
        (lambda file: file.write_bytes(b"hello" * 100), "is not a picture"),
        (lambda file: Image.new("RGB", (HEIGHT, WIDTH)).save(file), "masks were drawn on 12 x 8"),
    ],
)
def test_a_bad_picture_is_named_with_its_path(folder: Path, damage: Callable[[Path], object], match: str) -> None:
    file = folder / "images" / "000000000001.png"
    dataset = coco.build(str(folder))
    damage(file)
    with pytest.raises(BadMedia, match=match) as caught:
        dataset.image("images/000000000001.png")
    assert str(file) in str(caught.value)


def test_a_pointer_that_is_no_picture_of_the_dataset(folder: Path) -> None:
    dataset = coco.build(str(folder))
    (folder / "images" / "other.png").write_bytes((folder / "images" / "000000000001.png").read_bytes())
    for ask in (dataset.image, lambda media: dataset.mask(media, "dog")):
        with pytest.raises(BadMedia, match="is not a picture of the dataset"):
            ask("images/other.png")


def test_loading_prints_nothing(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    dataset = coco.build(str(folder))
    dataset.mask("images/000000000001.png", "dog")
    assert capfd.readouterr() == ("", "")


# Opening pictures


def test_limits_are_kept_before_decoding(tmp_path: Path) -> None:
    file = tmp_path / "x.png"
    Image.new("RGB", (100, 50)).save(file)
    assert open_image(file, 5000).size == (100, 50)
    with pytest.raises(BadMedia, match=r"is 100 x 50 pixels, the limit is 4,999"):
        open_image(file, 4999)
    with pytest.raises(BadMedia, match=r"bytes, the limit is 10"):
        open_image(file, max_bytes=10)


def test_a_bomb_is_refused_whatever_its_size(tmp_path: Path) -> None:
    """A header that says 40,000 x 40,000, a hundred bytes of file."""
    file = tmp_path / "bomb.bmp"
    Image.new("RGB", (1, 1)).save(file)
    data = bytearray(file.read_bytes())
    data[18:26] = (40_000).to_bytes(4, "little") * 2
    file.write_bytes(data)
    with pytest.raises(BadMedia, match="limit"):
        open_image(file)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_every_kind_of_pixel_becomes_rgb(tmp_path: Path, mode: str) -> None:
    file = tmp_path / ("x.jpg" if mode == "CMYK" else "x.png")
    Image.new(mode, (4, 3)).save(file)
    assert open_image(file).mode == "RGB"


def test_the_camera_was_turned(tmp_path: Path) -> None:
    file = tmp_path / "x.jpg"
    picture = Image.new("RGB", (40, 20), "red")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(file, exif=exif)
    assert open_image(file).size == (20, 40)


# Real photographs


@pytest.fixture(scope="module")
def real() -> coco.Coco:
    for parent in Path(__file__).resolve().parents:
        if (parent / "shared" / "data" / "coco_mini").is_dir():
            return coco.build(str(parent / "shared" / "data" / "coco_mini"))
    pytest.skip("coco_mini is not beside this checkout")


def test_real_categories_are_the_official_ones(real: coco.Coco) -> None:
    assert len(real.concepts) == 80
    ids = [concept.category_id for concept in real.concepts.values()]
    assert (min(i for i in ids if i), max(i for i in ids if i)) == (1, 90)
    assert real.concepts["toothbrush"].category_id == 90
    assert real.concepts["dog"].supercategory == "animal"
    assert "Attribution" in real.licence


def test_every_real_picture_opens_and_every_mask_is_of_its_size(real: coco.Coco) -> None:
    examples = every(real, IMAGE)
    assert len(examples) == 106, "two of the 108 show nothing that is annotated"
    area = 0
    for example in examples:
        picture = real.image(example.media[0])
        for mention in example.mentions:
            mask = real.mask(example.media[0], mention.concept)
            assert mask.shape == (picture.height, picture.width)
            assert mask.any()
            area += int(mask.sum())
    assert area > 1_000_000


def test_real_masks_have_the_area_the_annotation_says(real: coco.Coco) -> None:
    """Where a picture shows one instance of a category, its area is known from the file."""
    index, checked = real._index, 0
    for number, instances in index.imgToAnns.items():
        for category in {a["category_id"] for a in instances}:
            same = [a for a in instances if a["category_id"] == category]
            if len(same) == 1 and same[0]["area"] > 2000:
                name = index.cats[category]["name"]
                found = int(real.mask(real._pointers[number], name).sum())
                assert found == pytest.approx(same[0]["area"], rel=0.05), (number, name)
                checked += 1
    assert checked > 50


def test_real_captions_mention_what_they_say(real: coco.Coco) -> None:
    dogs = every(real, TEXT, concepts=["dog"])
    assert dogs
    assert all(
        {"dog", "dogs", "puppy", "puppies"} & set(e.answer.lower().replace(".", " ").split()) for e in dogs if e.answer
    )
    counted = {
        name: len({e.media for e in every(real, IMAGE, concepts=[name])}) for name in ("dog", "cat", "horse", "bus")
    }
    assert counted == {"dog": 4, "cat": 5, "horse": 4, "bus": 7}
