"""Where an example's pictures show its concepts, for methods that compare neurons' maps with that (the need REGION)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from atlas.errors import Unsupported, UsageError
from atlas.live.encode import Prompt
from atlas.live.grid.heatmap import Mask, sees
from atlas.live.grid.token_grids import Grid, grids, has_places
from atlas.live.model import LiveModel
from ingest.attribution.estimators import REGION, TEXT_TARGET
from ingest.attribution.item import Region
from ingest.data.examples import IMAGE, BadMedia, Dataset, Example
from ingest.data.targets import NONE, Target
from ingest.job import Job
from ingest.run.resolve import methods, needs
from ingest.run.skipped import Skipped

ANOTHER_SHAPE = 0.02
"""By how much the proportions of an outline and of its picture may differ: the outline is of another picture then."""


class Regions:
    """Finds the regions of one dataset's pictures for one model. examples: all of the run, whose other pictures of a
    concept give the null. skipped: counts the concepts without a region."""

    def __init__(self, live: LiveModel, dataset: Dataset, examples: Sequence[Example], skipped: Skipped):
        self.live, self.dataset, self.skipped = live, dataset, skipped
        self._showing: dict[str, dict[str, None]] = {}  # concept -> pictures, in the order of the run
        for example in examples:
            if _has_regions(example):
                for mention in example.mentions:
                    self._showing.setdefault(mention.concept, {}).update(dict.fromkeys(example.media))

    def of(self, example: Example, prompt: Prompt, targets: Sequence[Target]) -> dict[str, tuple[Region, ...]]:
        """For each concept to explain, its region in each picture of the example that shows it, with the picture's
        token grids; concepts without any are counted in `skipped`."""
        by_concept: dict[str, tuple[Region, ...]] = {}
        if not _has_regions(example):
            return by_concept
        found: list[Grid] | None = None
        for concept in sorted({t.concept for t in targets} - {NONE}):
            masks = {number: self._own(example, prompt, number, concept) for number in range(len(example.media))}
            own = {number: mask for number, mask in masks.items() if mask is not None}
            if not own:
                self.skipped.unplaced[concept] += 1
                continue
            if found is None:
                found = grids(self.live.encoder, prompt, self.live.model.config)
            by_picture = {number: tuple(grid for grid in found if grid.picture == number) for number in own}
            regions = [
                Region(of_picture, own[number], self._other(example, concept, of_picture))
                for number, of_picture in by_picture.items()
                if sees(of_picture, own[number])
            ]
            if regions:
                by_concept[concept] = tuple(regions)
            elif any(by_picture.values()):
                self.skipped.unplaced[concept] += 1  # cropped away
            else:
                self.skipped.ungridded[concept] += 1
        return by_concept

    def _own(self, example: Example, prompt: Prompt, number: int, concept: str) -> Mask | None:
        mask = _mask(self.dataset, example.media[number], concept)
        if mask is None or number >= len(prompt.sizes):
            return mask
        height, width = prompt.sizes[number]
        same_shape = abs(mask.shape[0] * width / (mask.shape[1] * height) - 1) <= ANOTHER_SHAPE
        return mask if same_shape else None

    def _other(self, example: Example, concept: str, of_picture: Sequence[Grid]) -> Mask | None:
        """The concept's region in another picture of the run, as far as this picture's tokens see one; by the example's
        id alone, so that it is the same for every batch."""
        pictures = [pointer for pointer in self._showing.get(concept, ()) if pointer not in example.media]
        draw = int(hashlib.sha256(f"region {example.id} {concept}".encode()).hexdigest()[:15], 16)
        first = draw % max(1, len(pictures))
        for pointer in (*pictures[first:], *pictures[:first]):
            mask = _mask(self.dataset, pointer, concept)
            if mask is not None and sees(of_picture, mask):
                return mask
        return None


def require_regions(job: Job, dataset: Dataset, examples: Sequence[Example]) -> None:
    """Raise UsageError where a method of the job compares with regions and no picture has one, before a model is loaded
    for it."""
    if REGION not in needs(job):
        return
    asked = {(p, m.concept): None for e in examples if _has_regions(e) for m in e.mentions for p in e.media}
    if not any(concept in job.concepts and _mask(dataset, pointer, concept) is not None for pointer, concept in asked):
        raise UsageError(
            f"{_names(job)} compares maps with the pixels that show the concept, and {dataset.name} knows them for "
            "none of these pictures; leave it out of [[methods]], or choose another dataset: scenes, photos or coco"
        )


def require_places(job: Job, config: Any) -> None:
    """Raise Unsupported where a method of the job compares with regions and the model's image tokens have no place."""
    if REGION in needs(job) and not has_places(config):
        raise Unsupported(
            f"{_names(job)} lays image tokens on the picture, and those of {job.model} have no place in it "
            f"({config.model_type} reads a picture through queries); leave it out of [[methods]]"
        )


def _names(job: Job) -> str:
    return ", ".join(name for name, method in methods(job).items() if REGION in method.needs)


def _has_regions(example: Example) -> bool:
    return example.source == IMAGE and example.target == TEXT_TARGET


def _mask(dataset: Dataset, pointer: str, concept: str) -> Mask | None:
    """The pixels that show the concept; None where there are none, or the picture cannot be opened."""
    with suppress(BadMedia):
        mask: Mask = np.asarray(dataset.mask(pointer, concept), np.bool_)
        return mask if mask.any() else None
    return None
