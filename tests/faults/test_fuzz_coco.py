"""COCO's files with things in them that nobody would write: a value or one of the project's own errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fuzzing import a_file, feed, objects

pytestmark = pytest.mark.filterwarnings("ignore::atlas.errors.AtlasWarning")  # what was left out is said
SLOW = pytest.mark.parametrize("number", [700, pytest.param(10_000, marks=pytest.mark.nightly)])


def coco(folder: Path, segmentation: Any) -> dict[str, Any]:
    from PIL import Image

    (folder / "images").mkdir(parents=True)
    (folder / "annotations").mkdir()
    Image.new("RGB", (20, 20), "red").save(folder / "images" / "1.jpg")
    images = [{"id": 1, "file_name": "1.jpg", "width": 20, "height": 20, "license": 1}]
    box = {"id": 1, "image_id": 1, "category_id": 18, "bbox": [0, 0, 9, 9], "area": 81, "iscrowd": 0}
    more = [{**box, "id": 2, "segmentation": [[0, 0, 9, 0, 9, 9]]}] if segmentation else []
    categories = [{"id": 18, "name": "dog", "supercategory": "animal"}]
    whole = {"images": images, "annotations": [{**box, "segmentation": segmentation}, *more], "categories": categories}
    return whole | {"licenses": [{"id": 1, "name": "CC"}]}


RUNS = {"size": [20, 20], "counts": [10, 30, 360]}


@SLOW
@pytest.mark.parametrize("segmentation", [None, [[0, 0, 9, 0, 9, 9, 0, 9]], RUNS], ids=["box", "polygon", "runs"])
def test_coco_instances(number: int, segmentation: Any, tmp_path: Path) -> None:
    from ingest.datasets.coco import build

    whole = coco(tmp_path, segmentation)
    file = tmp_path / "annotations" / "instances.json"
    captions = {"images": whole["images"], "annotations": [{"id": 1, "image_id": 1, "caption": "A dog."}]}
    (tmp_path / "annotations" / "captions.json").write_text(json.dumps(captions))

    def read() -> Any:
        found = build(str(tmp_path))
        shown = []
        for split in ("find", "held_out"):
            options = {"split": split, "concepts": list(found.concepts), "per_concept": 3, "seed": 0}
            for source in ("image", "text"):
                shown += found.examples(source=source, tasks=found.tasks[source], **options)
        for example in shown:
            for media in example.media:
                found.image(media)
                for mention in example.mentions:
                    found.mask(media, mention.concept)
        return len(shown)

    assert feed(number, objects(whole), a_file(file, read), None) > 20


@SLOW
def test_coco_captions(number: int, tmp_path: Path) -> None:
    from ingest.datasets.coco import build

    whole = coco(tmp_path, None)
    (tmp_path / "annotations" / "instances.json").write_text(json.dumps(whole))
    file = tmp_path / "annotations" / "captions.json"
    captions = {
        "images": whole["images"],
        "annotations": [{"id": i, "image_id": 1, "caption": "A dog."} for i in (1, 2)],
    }

    def read() -> Any:
        found = build(str(tmp_path))
        options = {"concepts": ["dog"], "per_concept": 3, "seed": 0, "tasks": found.tasks["text"]}
        return [found.examples(source="text", split=split, **options) for split in ("find", "held_out")]

    assert feed(number, objects(captions), a_file(file, read), None) > 20


@pytest.mark.parametrize(
    "outline",
    [
        [[0, 0, 9, 0, 9, 9, 0, 1e18]],
        [[0, 0, 9, 0, 9, 9, 0, float("nan")]],
        {"size": [20, 20], "counts": [10, 30]},
        {"size": [20, 20], "counts": ""},
        {"size": [20, 20], "counts": "x"},
        {"size": [20, 20], "counts": [0.5, 399.5]},
    ],
)
def test_an_outline_that_pycocotools_would_take(outline: Any) -> None:
    """It would walk for hours to a far corner, and give back memory that no run covers."""
    from atlas.errors import IntegrityError
    from ingest.datasets._coco_masks import mask_of

    with pytest.raises(IntegrityError, match="annotation 1"):
        mask_of({"id": 1, "bbox": [0, 0, 9, 9], "segmentation": outline}, 20, 20)


def test_run_lengths_as_text_are_those_of_pycocotools() -> None:
    import numpy as np
    from pycocotools import mask as runs

    from ingest.datasets._coco_masks import _lengths

    for seed in range(50):
        pixels = np.random.default_rng(seed).random((17, 23)) < (seed + 1) / 52
        coded = runs.encode(np.asfortranarray(pixels.astype(np.uint8)))
        counts, last = [0], 0
        for value in pixels.flatten(order="F").astype(int).tolist():
            if value != last:
                counts.append(0)
                last = value
            counts[-1] += 1
        assert _lengths(coded["counts"].decode()) == counts
