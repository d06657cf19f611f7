"""photos: 108 photographs of COCO 2017 with outlines, captions and their photographers' addresses, in the package.

All are under CC BY 2.0 or CC BY-SA 2.0 (`_photos/attribution.json` names licence and source of each), 480 pixels at
most on their longer side; outlines and captions are COCO's (CC BY 4.0). 24 % are held out, so that of every concept
with three photographs or more at least one is held out and at least two are not. None of them was used to train
`photo-vlm`. Questions and answers are those of `coco`.
"""

from __future__ import annotations

from pathlib import Path

from ingest.datasets import coco
from ingest.datasets._files import refuse_path

FOLDER = Path(__file__).parent / "_photos"


def build(path: str | None = None, *, classes: str = "") -> coco.Coco:
    """classes: only these categories, separated by commas.

    Raises:
        UsageError: no such class, or a path was given.
    """
    refuse_path(path, "photos")
    dataset = coco.build(str(FOLDER), classes=classes)
    dataset.name, dataset.path = "photos", None
    return dataset
