"""COCO folders as exporters and people write them: ids, names, sizes, captions, layouts, links."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from atlas.errors import AtlasWarning, IntegrityError, UsageError
from ingest.data.examples import FIND, HELD_OUT, IMAGE, TEXT, BadMedia, Example
from ingest.datasets import coco
from ingest.datasets._coco_rows import normalised_id

HEIGHT, WIDTH = 8, 12
SQUARE = [[2, 1, 7, 1, 7, 4, 2, 4]]


def picture(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT), "red").save(file)


def rows(*names: str, **changed: Any) -> dict[str, list[dict[str, Any]]]:
    """A dog in every picture; ids are 1, 2, ..."""
    images = [{"id": n, "file_name": name, "height": HEIGHT, "width": WIDTH} for n, name in enumerate(names, 1)]
    annotations = [
        {"id": n, "image_id": n, "category_id": 18, "segmentation": SQUARE} for n in range(1, len(names) + 1)
    ]
    return {"images": images, "annotations": annotations, "categories": [{"id": 18, "name": "dog"}]} | changed


def write(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def simple(root: Path, whole: Any, pictures: tuple[str, ...] = ("1.png", "2.png")) -> Path:
    write(root / "annotations" / "instances_val.json", whole)
    for name in pictures:
        picture(root / "images" / name)
    return root


def every(root: Path, source: str = IMAGE, **options: Any) -> list[Example]:
    dataset = coco.build(str(root), **options)
    asked: dict[str, Any] = {"concepts": list(dataset.concepts), "tasks": ["caption"], "per_concept": 99, "seed": 0}
    return [e for split in (FIND, HELD_OUT) for e in dataset.examples(source=source, split=split, **asked)]


def media(root: Path, **options: Any) -> set[str]:
    return {m for e in every(root, **options) for m in e.media}


# Ids


@pytest.mark.parametrize(
    ("value", "wanted"),
    [(7, 7), (7.0, 7), ("7", 7), ("000007", 7), (" 7 ", 7), ("7.0", 7), ("a7", "a7"), ("-", "-")]
    + [("-7", -7), ("+7", 7), ("1" * 20, int("1" * 20)), (2.0**53, 2**53)]
    + [(value, None) for value in (None, True, 7.5, 2.0**53 + 2, float("nan"), float("inf"), "", " ", [7], {})],
)
def test_ids_have_one_form(value: Any, wanted: Any) -> None:
    assert normalised_id(value) == wanted


@pytest.mark.parametrize("form", [str, float, lambda n: f"{n:012}", lambda n: f"{n}.0"])
@pytest.mark.parametrize("changed", ["images", "annotations", "captions"])
def test_ids_of_another_form_in_one_place(tmp_path: Path, form: Callable[[int], Any], changed: str) -> None:
    whole = rows("1.png", "2.png")
    said: Any = [{"id": n, "image_id": n, "caption": f"A dog, number {n}."} for n in (1, 2)]
    for row in {**whole, "captions": said}[changed]:
        key = "id" if changed == "images" else "image_id"
        row[key] = form(row[key])
    simple(tmp_path, whole)
    write(tmp_path / "annotations" / "captions_val.json", {"annotations": said})
    assert {e.media: e.references for e in every(tmp_path)} == {
        ("images/1.png",): ("A dog, number 1.",),
        ("images/2.png",): ("A dog, number 2.",),
    }
    assert len(every(tmp_path, TEXT)) == 2


def test_ids_that_are_words(tmp_path: Path) -> None:
    whole = rows("1.png", "2.png")
    for row, name in zip(whole["images"], ("left", "right"), strict=True):
        row["id"] = name
    for row, name in zip(whole["annotations"], ("left", "right"), strict=True):
        row |= {"image_id": name, "category_id": "k"}
    whole["categories"][0]["id"] = "k"
    dataset = coco.build(str(simple(tmp_path, whole)))
    assert dataset.concepts["dog"].category_id is None
    assert dataset.mask("images/2.png", "dog").sum() == 15


def test_one_id_in_two_forms_is_one_id(tmp_path: Path) -> None:
    whole = rows("1.png", "2.png")
    whole["images"][1]["id"] = "01"
    with pytest.raises(IntegrityError, match="two images have the id 1"):
        coco.build(str(simple(tmp_path, whole)))


def test_annotations_need_neither_id_nor_iscrowd(tmp_path: Path) -> None:
    whole = rows("1.png", "2.png")
    for row in whole["annotations"]:
        del row["id"]
    whole["annotations"][1]["segmentation"] = "x"
    dataset = coco.build(str(simple(tmp_path, whole)))
    assert dataset.mask("images/1.png", "dog").sum() == 15
    with pytest.raises(IntegrityError, match="annotation number 2: "):
        dataset.mask("images/2.png", "dog")


def test_annotations_of_unlisted_pictures_are_told(tmp_path: Path) -> None:
    whole = rows("1.png", "2.png")
    whole["annotations"].append({"id": 9, "image_id": 999, "category_id": 18})
    with pytest.warns(AtlasWarning, match="pictures that are not listed: 1 of 3 left out: 9 of picture 999"):
        coco.build(str(simple(tmp_path, whole)))


# Captions


def test_captions_in_a_list(tmp_path: Path) -> None:
    simple(tmp_path, rows("1.png", "2.png"))
    said = [{"image_id": 1, "caption": ["A dog.", " Two dogs. "]}, {"image_id": 1, "caption": "A puppy."}]
    write(tmp_path / "annotations" / "captions_val.json", {"annotations": said})
    assert {e.answer for e in every(tmp_path, TEXT)} == {"A dog.", "Two dogs.", "A puppy."}


def test_the_captions_of_one_picture_are_one_cluster(tmp_path: Path) -> None:
    simple(tmp_path, rows("1.png", "2.png"))
    said = [{"image_id": n, "caption": f"A dog, number {n}, said {k} times."} for n in (1, 2) for k in range(3)]
    write(tmp_path / "annotations" / "captions_val.json", {"annotations": said})
    clusters: dict[str, set[str]] = {}
    for example in every(tmp_path, TEXT):
        clusters.setdefault(example.cluster, set()).add(str(example.answer)[:15])
    assert sorted(map(sorted, clusters.values())) == [["A dog, number 1"], ["A dog, number 2"]]


@pytest.mark.parametrize("empty", [None, "", " ", [], [None], 7, {}])
def test_captions_without_a_word_are_told_and_never_their_python_name(tmp_path: Path, empty: Any) -> None:
    simple(tmp_path, rows("1.png", "2.png"))
    said = [{"image_id": 1, "caption": "A dog."}, {"image_id": 2, "caption": empty}]
    write(tmp_path / "annotations" / "captions_val.json", {"annotations": said})
    with pytest.warns(AtlasWarning, match=r"captions_val.json: empty captions: 1 of 2 left out: row 1"):
        dataset = coco.build(str(tmp_path))
    assert dataset._texts == {1: ["A dog."], 2: []}


def test_captions_of_unlisted_pictures_are_told(tmp_path: Path) -> None:
    simple(tmp_path, rows("1.png", "2.png"))
    said = [{"image_id": f"x{n}", "caption": "A dog."} for n in range(5)]
    write(tmp_path / "annotations" / "captions_val.json", {"annotations": said})
    with pytest.warns(AtlasWarning, match="5 of 5 left out: row 0 of picture 'x0'; .*, and 2 more"):
        coco.build(str(tmp_path))


# Sizes


@pytest.mark.parametrize("size", [{}, {"width": 0, "height": 0}, {"width": None, "height": 8}, {"width": 12}])
def test_a_missing_size_is_read_from_the_picture(tmp_path: Path, size: dict[str, Any]) -> None:
    whole = rows("1.png", "2.png")
    whole["images"][0] = {"id": 1, "file_name": "1.png", **size}
    dataset = coco.build(str(simple(tmp_path, whole)))
    assert dataset.mask("images/1.png", "dog").shape == (HEIGHT, WIDTH)
    assert dataset.image("images/1.png").size == (WIDTH, HEIGHT)


@pytest.mark.parametrize("name", ["1.jpg", "1.tif", "1.png"])
def test_a_missing_size_is_that_of_the_upright_picture(tmp_path: Path, name: str) -> None:
    whole = rows(name)
    whole["images"][0] = {"id": 1, "file_name": name}
    exif = Image.Exif()
    exif[274] = 6
    (tmp_path / "images").mkdir()
    Image.new("RGB", (HEIGHT, WIDTH)).save(tmp_path / "images" / name, exif=exif)
    dataset = coco.build(str(simple(tmp_path, whole, ())))
    assert dataset.image(f"images/{name}").size == (WIDTH, HEIGHT)
    assert dataset.mask(f"images/{name}", "dog").shape == (HEIGHT, WIDTH)


def test_a_categorys_id_that_no_column_holds_only_tells_it_apart(tmp_path: Path) -> None:
    whole = rows("1.png", "2.png", categories=[{"id": 10**12, "name": "dog"}, {"id": 18, "name": "cat"}])
    whole["annotations"][0]["category_id"] = 10**12
    dataset = coco.build(str(simple(tmp_path, whole)))
    assert {name: concept.category_id for name, concept in dataset.concepts.items()} == {"dog": None, "cat": 18}
    assert dataset.mask("images/1.png", "dog").sum() == 15 and not dataset.mask("images/2.png", "dog").any()


def test_a_category_that_stands_for_all_or_for_another(tmp_path: Path) -> None:
    whole = rows("1.png", "2.png", categories=[{"id": 18, "name": "dog"}, {"id": 19, "name": "Dog"}])
    with pytest.warns(AtlasWarning, match="only in capitals are scored separately.*: 'dog' and 'Dog'"):
        coco.build(str(simple(tmp_path, whole)))
    with pytest.raises(IntegrityError, match=r"the category '\*' stands for all categories"):
        coco.build(str(simple(tmp_path, rows("1.png", "2.png", categories=[{"id": 18, "name": "*"}]))))


@pytest.mark.parametrize("shape", [{"bbox": [0.1, 0.2, 0.5, 0.5]}, {"segmentation": [[0.1, 0.2, 0.9, 0.2, 0.9, 1.0]]}])
def test_shapes_in_parts_of_the_picture_are_refused(tmp_path: Path, shape: dict[str, Any]) -> None:
    whole = rows("1.png", "2.png")
    whole["annotations"] = [{"id": n, "image_id": n, "category_id": 18, **shape} for n in (1, 2)]
    with pytest.raises(
        IntegrityError, match="between 0 and 1, fractions of the picture; COCO's are in pixels, so multiply"
    ):
        coco.build(str(simple(tmp_path, whole)))


@pytest.mark.parametrize("box", [[8, 5, 11, 7], [2, 2, 0, 3], [5, 5, -3, -3], [50, 50, 3, 3]])
def test_boxes_that_do_not_lie_in_the_picture_are_told(tmp_path: Path, box: list[int]) -> None:
    whole = rows("1.png", "2.png")
    whole["annotations"] = [
        {"id": 1, "image_id": 1, "category_id": 18, "bbox": [0, 0, WIDTH, HEIGHT]},
        {"id": 2, "image_id": 2, "category_id": 18, "bbox": box},
    ]
    with pytest.warns(AtlasWarning, match=r"1 of 2 clipped to the picture: annotation 2, \[.*\] of 12 x 8 pixels"):
        coco.build(str(simple(tmp_path, whole)))


def test_sizes_as_texts_and_floats(tmp_path: Path) -> None:
    whole = rows("1.png", "2.png")
    whole["images"][0] |= {"width": "12", "height": 8.0}
    assert coco.build(str(simple(tmp_path, whole))).mask("images/1.png", "dog").shape == (HEIGHT, WIDTH)


def test_no_size_and_no_picture_is_left_out_by_name(tmp_path: Path) -> None:
    whole = rows("1.png", "2.png")
    whole["images"][1] = {"id": 2, "file_name": "2.png"}
    with pytest.warns(AtlasWarning, match=r"pictures: 1 of 2 left out: .*2\.png is missing"):
        assert media(simple(tmp_path, whole, ("1.png",))) == {"images/1.png"}


@pytest.mark.parametrize("size", [-1, 100_001, 10**30])
def test_a_size_that_no_picture_has(tmp_path: Path, size: int) -> None:
    whole = rows("1.png", "2.png")
    whole["images"][1]["width"] = size
    with pytest.raises(IntegrityError, match="image 2 is"):
        coco.build(str(simple(tmp_path, whole)))


# Names


@pytest.mark.parametrize(
    "name",
    [
        "1.png",
        "./1.png",
        "images/1.png",
        "images\\1.png",
        "/home/somebody/coco/images/1.png",
        "..\\..\\label-studio\\media\\upload\\1.png",
        "../images/1.png",
        "C:\\data\\images\\1.png",
        "D:/1.png",
        "http://images.cocodataset.org/val2017/1.png",
        "s3://bucket/folder/1.png?versionId=3",
        "/data/local-files/?d=folder/1.png",
        "train/1.png",
    ],
)
def test_names_of_other_machines_are_found_by_their_end(tmp_path: Path, name: str) -> None:
    simple(tmp_path, rows(name, "2.png"))
    assert media(tmp_path) == {"images/1.png", "images/2.png"}


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("my%20d%C3%B6g.png", "my d\u00f6g.png"),
        ("d\u00f6g.png", "do\u0308g.png"),
        ("do\u0308g.png", "d\u00f6g.png"),
        ("100%25.png", "100%25.png"),
        ("a%2fb.png", "a%2fb.png"),
    ],
)
def test_names_that_are_spelt_in_another_way(tmp_path: Path, name: str, file: str) -> None:
    simple(tmp_path, rows(name, "2.png"), (file, "2.png"))
    assert media(tmp_path) == {f"images/{file}", "images/2.png"}


def test_lvis_has_a_url_and_no_name(tmp_path: Path) -> None:
    whole = rows("1.png")
    whole["images"][0]["coco_url"] = f"http://host/val2017/{whole['images'][0].pop('file_name')}"
    picture(tmp_path / "val2017" / "1.png")
    write(tmp_path / "lvis_v1_val.json", whole)
    assert media(tmp_path) == {"val2017/1.png"}


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../secret.png", "C:\\x.png", "..\\x.png", "a\0.png", "a/" + "x" * 300]
)
def test_a_bad_name_is_told_and_the_others_stay(tmp_path: Path, name: str) -> None:
    picture(tmp_path / "secret.png")
    simple(tmp_path / "coco", rows(name, "2.png"))
    with pytest.warns(AtlasWarning, match="pictures: 1 of 2 left out: the name '"):
        dataset = coco.build(str(tmp_path / "coco"))
    assert list(dataset._by_pointer) == ["images/2.png"]
    assert [len(dataset._index.imgToAnns[n]) for n in (1, 2)] == [0, 1]


def test_two_names_that_would_be_one_picture_are_both_left_out(tmp_path: Path) -> None:
    simple(tmp_path, rows("/a/1.png", "/b/1.png", "2.png"))
    with pytest.warns(AtlasWarning, match=r"2 of 3 left out: '/a/1.png' matches images/1.png, and so does another"):
        assert media(tmp_path) == {"images/2.png"}


def test_what_has_the_whole_name_keeps_its_picture(tmp_path: Path) -> None:
    simple(tmp_path, rows("1.png", "/b/1.png"))
    with pytest.warns(AtlasWarning, match=r"1 of 2 left out: '/b/1.png' matches"):
        assert media(tmp_path) == {"images/1.png"}


def test_what_was_left_out_is_part_of_the_revision(tmp_path: Path) -> None:
    simple(tmp_path, rows("/a/1.png", "2.png"), ("2.png",))
    with pytest.warns(AtlasWarning):
        before = coco.build(str(tmp_path)).revision
    picture(tmp_path / "images" / "1.png")
    assert coco.build(str(tmp_path)).revision != before


# Layouts


@pytest.mark.parametrize(
    ("file", "place"),
    [
        ("annotations/instances_default.json", "images"),  # CVAT
        ("annotations/instances_default.json", "images/default"),
        ("annotations/lvis_v1_val.json", "val2017"),
        ("_annotations.coco.json", "."),  # a split of Roboflow's
        ("train/_annotations.coco.json", "train"),
        ("result.json", "images"),  # Label Studio
        ("labels.json", "data"),  # FiftyOne
        ("labels.json", "data/val"),
        ("instances_val2017.json", "images"),
    ],
)
def test_layouts_of_exporters(tmp_path: Path, file: str, place: str) -> None:
    write(tmp_path / file, rows("1.png", "2.png"))
    for name in ("1.png", "2.png"):
        picture(tmp_path / place / name)
    prefix = "" if place == "." else f"{place}/"
    assert media(tmp_path) == {f"{prefix}1.png", f"{prefix}2.png"}


def test_roboflow_has_a_file_a_split_and_its_pictures_beside_it(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        write(tmp_path / split / "_annotations.coco.json", rows("1.png"))
        picture(tmp_path / split / "1.png")
    assert media(tmp_path, subset="valid") == {"valid/1.png"}
    with pytest.raises(IntegrityError, match="read one file with options='subset=valid'"):
        coco.build(str(tmp_path))
    with pytest.raises(UsageError, match=r"with 'test' in its name; it has train/_annotations.coco.json, valid/"):
        coco.build(str(tmp_path), subset="test")


def test_roboflows_first_category_is_nobodys(tmp_path: Path) -> None:
    twice = [{"id": 0, "name": "dog", "supercategory": "none"}, {"id": 18, "name": "dog", "supercategory": "dog"}]
    simple(tmp_path, rows("1.png", "2.png", categories=twice))
    assert coco.build(str(tmp_path)).concepts["dog"].category_id == 18


def test_no_layout_says_what_is_expected(tmp_path: Path) -> None:
    write(tmp_path / "export.json", rows("1.png"))
    with pytest.raises(UsageError, match=r"expected: annotations/instances\*.json \(COCO, CVAT\).*FiftyOne"):
        coco.build(str(tmp_path))


def test_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    simple(tmp_path / "x", rows("1.png", "2.png"))
    monkeypatch.setenv("HOME", str(tmp_path))
    dataset = coco.build("~/x")
    assert dataset.path == str(tmp_path / "x")


@pytest.mark.parametrize("name", ["", " ", ",", None, 7])
def test_a_category_without_a_name(tmp_path: Path, name: Any) -> None:
    simple(tmp_path, rows("1.png", "2.png", categories=[{"id": 18, "name": name}]))
    with pytest.raises(IntegrityError, match='a row of categories has no valid name: {"id": 18'):
        coco.build(str(tmp_path))


# Links


def snapshot(tmp_path: Path) -> tuple[Path, Path]:
    """A dataset in the Hub's cache: files are links from a snapshot into the blobs."""
    cache = tmp_path / "datasets--somebody--dogs"
    root = simple(cache / "snapshots" / ("0" * 40), rows("1.png", "2.png"))
    (cache / "blobs").mkdir()
    for number, file in enumerate(sorted(f for f in root.rglob("*") if f.is_file())):
        file.rename(cache / "blobs" / f"{number}")
        file.symlink_to(Path("../../..") / "blobs" / f"{number}")
    return root, cache


def test_links_of_the_hubs_cache_are_followed(tmp_path: Path) -> None:
    root, _ = snapshot(tmp_path)
    dataset = coco.build(str(root))
    assert dataset.image("images/1.png").getpixel((0, 0)) == (255, 0, 0)
    assert dataset.digest("images/1.png") != "missing"


def test_links_out_of_the_hubs_cache_are_not(tmp_path: Path) -> None:
    root, cache = snapshot(tmp_path)
    picture(tmp_path / "secret.png")
    picture(cache / "refs" / "secret.png")
    for place in (tmp_path / "secret.png", cache / "refs" / "secret.png"):
        (root / "images" / "1.png").unlink()
        (root / "images" / "1.png").symlink_to(place)
        with pytest.raises(BadMedia, match="is a link out of the dataset's folder"):
            coco.build(str(root)).image("images/1.png")


def test_links_in_a_circle_are_bad_media(tmp_path: Path) -> None:
    root = simple(tmp_path, rows("1.png", "2.png"), ("2.png",))
    (root / "images" / "1.png").symlink_to("1.png")
    with pytest.raises(BadMedia, match=r"1\.png cannot be followed"):
        coco.build(str(root)).image("images/1.png")


def test_a_folder_in_a_pictures_place(tmp_path: Path) -> None:
    root = simple(tmp_path, rows("1.png", "2.png"), ("2.png",))
    (root / "images" / "1.png").mkdir()
    with pytest.raises(BadMedia, match=r"1\.png is not a file; give one of the pictures themselves"):
        coco.build(str(root)).image("images/1.png")


def test_a_clone_without_its_large_files(tmp_path: Path) -> None:
    root = simple(tmp_path, rows("1.png", "2.png"))
    (root / "images" / "1.png").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(BadMedia, match=r"1\.png is a Git LFS pointer, .*`git lfs pull`"):
        coco.build(str(root)).image("images/1.png")


def test_a_link_within_the_folder_is_followed(tmp_path: Path) -> None:
    simple(tmp_path, rows("1.png", "2.png"))
    (tmp_path / "images" / "1.png").unlink()
    (tmp_path / "images" / "1.png").symlink_to("2.png")
    np.testing.assert_array_equal(coco.build(str(tmp_path)).image("images/1.png").size, (WIDTH, HEIGHT))
