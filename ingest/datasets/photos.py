"""photos: 108 photographs of COCO 2017 with outlines and captions, and the facts about the things they show.

Source image: the photographs, and the questions and answers of `coco`. Source text: the facts of `facts` (tasks
completion, sentence; about on request), and COCO's captions without their pictures (task caption, on request). So the
same concepts come in through a picture or through words.

All photographs are under CC BY 2.0 or CC BY-SA 2.0 (`_photos/attribution.json` names licence and source of each), 480
pixels at most on their longer side; outlines and captions are COCO's (CC BY 4.0), facts CC0-1.0. 24 % of the
photographs are held out, so that of every concept with three or more at least one is held out and at least two are not.
None of them was used to train `photo-vlm`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ingest.data.examples import FIND, HELD_OUT, IMAGE, TEXT, Concept, Example
from ingest.datasets import coco, facts
from ingest.datasets._files import check_names, refuse_path
from ingest.datasets._tasks import TaskDataset

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

FOLDER = Path(__file__).parent / "_photos"
USUAL = ("completion", "sentence")
"""The tasks in text whose answers name the concept, as captions do."""


class Photos:
    """Photographs and facts; see `ingest.data.examples.Dataset`."""

    name, path = "photos", None

    def __init__(self, photographs: coco.Coco, known_facts: TaskDataset):
        self._photographs, self._facts = photographs, known_facts
        self.concepts: Mapping[str, Concept] = photographs.concepts
        digest = hashlib.sha256(f"{photographs.revision} {known_facts.revision}".encode())
        self.revision = digest.hexdigest()
        self.licence = f"{photographs.licence}; facts: {known_facts.licence}"
        fact_tasks = known_facts.all_tasks[TEXT]
        self.all_tasks: Mapping[str, tuple[str, ...]] = {IMAGE: (coco.CAPTION,), TEXT: (*fact_tasks, coco.CAPTION)}
        self.tasks: Mapping[str, tuple[str, ...]] = {IMAGE: (coco.CAPTION,), TEXT: USUAL}
        self.metrics: Mapping[str, tuple[str, ...]] = {**known_facts.metrics, **photographs.metrics}

    def examples(
        self, *, source: str, split: str, concepts: Sequence[str], tasks: Sequence[str], per_concept: int, seed: int
    ) -> list[Example]:
        """At most `per_concept` examples of each concept and task; some concepts have no facts.

        Raises:
            UsageError: a source, split, concept or task that the dataset does not have.
        """
        for kind, names, known in (("source", [source], self.tasks), ("split", [split], (FIND, HELD_OUT))):
            check_names(kind, names, known)
        check_names("concept", concepts, self.concepts)
        check_names("task", tasks, self.all_tasks[source])
        collected: list[Example] = []
        parts = ((self._facts, set(self.all_tasks[source]) - {coco.CAPTION}), (self._photographs, {coco.CAPTION}))
        for part, own_tasks in parts:
            chosen = [task for task in tasks if task in own_tasks]
            known_concepts = [name for name in concepts if name in part.concepts]
            if chosen and known_concepts:
                collected += part.examples(
                    source=source,
                    split=split,
                    concepts=known_concepts,
                    tasks=chosen,
                    per_concept=per_concept,
                    seed=seed,
                )
        return collected

    def image(self, media: str) -> Image:
        """The RGB photograph behind a pointer; see `Coco.image`."""
        return self._photographs.image(media)

    def digest(self, media: str) -> str:
        """The sha256 of the file's bytes, or MISSING."""
        return self._photographs.digest(media)

    def mask(self, media: str, concept: str) -> np.ndarray:
        """(height, width) bool: the pixels that show the concept; see `Coco.mask`."""
        return self._photographs.mask(media, concept)


def build(path: str | None = None, *, classes: str = "") -> Photos:
    """classes: only these categories, separated by commas.

    Raises:
        UsageError: no such class, or a path was given.
    """
    refuse_path(path, "photos")
    return Photos(coco.build(str(FOLDER), classes=classes), facts.build())
