"""Write scenes as a COCO folder: images/, annotations/instances.json and annotations/captions.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ingest.data.examples import FIND
from ingest.datasets._scene import SIZE
from ingest.datasets.scenes import Scenes


def write_coco(world: Scenes, folder: Path, count: int, *, split: str = FIND) -> None:
    """The first `count` pictures of a split, as PNG, with masks as run lengths and one caption each.

    An image's id is its number in the split, a category's id the concept's.
    """
    from pycocotools import mask as runs

    images: list[dict[str, Any]] = []
    instances: list[dict[str, Any]] = []
    captions: list[dict[str, Any]] = []
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "annotations").mkdir(exist_ok=True)
    for number, address in enumerate(world.addresses(split, count)):
        name = f"{number:012d}.png"
        world.image(address).save(folder / "images" / name)
        images.append({"id": number, "file_name": name, "height": SIZE, "width": SIZE})
        captions.append({"id": number + 1, "image_id": number, "caption": world.caption(address)})
        for concept in world.shown(address):
            encoded = runs.encode(np.asfortranarray(world.mask(address, concept), np.uint8))
            instances.append(
                {
                    "id": len(instances) + 1,
                    "image_id": number,
                    "category_id": world.concepts[concept].category_id,
                    "segmentation": {"size": [SIZE, SIZE], "counts": encoded["counts"].decode("ascii")},
                    "area": int(runs.area(encoded)),
                    "bbox": runs.toBbox(encoded).tolist(),
                    "iscrowd": 0,
                }
            )
    concepts = [world.concepts[name] for name in world.drawn]
    categories = [{"id": c.category_id, "name": c.name, "supercategory": c.supercategory} for c in concepts]
    shared = {"info": {"description": f"scenes, revision {world.revision}"}, "images": images}
    for file, rest in (
        ("instances", {"categories": categories, "annotations": instances}),
        ("captions", {"annotations": captions}),
    ):
        (folder / "annotations" / f"{file}.json").write_text(json.dumps({**shared, **rest}))
