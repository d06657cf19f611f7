"""The pictures that a job's model draws in its answers, and where they show the concepts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

import ingest.segmenters
from atlas import registry
from atlas.live.draw.drawer import Drawn, DrawOptions
from atlas.live.draw.pictures import pictures_of
from atlas.live.encode import Prompt
from atlas.live.model import LiveModel
from ingest.attribution.item import Item
from ingest.data.examples import Dataset
from ingest.job import Job
from ingest.segmenters._common import Segmenter

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, slots=True)
class DrawnRegion:
    """One concept's region in one row's picture. mask: (height, width) from 0 to 1."""

    row: int
    concept: str
    mask: Tensor


class Drawings:
    """Draws a model's answers, finds the concepts in the pictures, and attributes their regions to the states.

    A picture's noise is seeded by its prompt, so that the same request always starts from the same noise, also with an
    edited model.
    """

    def __init__(self, live: LiveModel, dataset: Dataset, job: Job):
        self.live, self.concepts = live, dataset.concepts
        self.how = DrawOptions(**job.drawing)
        self.segmenter: Segmenter = registry.load(ingest.segmenters, job.segmenter).build(**job.segmenting)
        self.seed = job.seed

    def draw(self, items: Sequence[Item], states: Tensor, tokens: Tensor) -> Drawn:
        """One picture an item. states: (B, J, d_model); tokens: (B, J)."""
        seeds = [self.seed_of(item.prompt.ids) for item in items]
        return self.live.drawer.draw(states, tokens, seeds, self.how)

    def pictures(self, prompts: Sequence[Prompt]) -> list[Image]:
        """The pictures of answered prompts, all of which have a picture's tokens in their answers."""
        return pictures_of(self.live, prompts, [self.seed_of(prompt.ids) for prompt in prompts], self.how)

    def seed_of(self, ids: Sequence[int]) -> int:
        """The seed of the noise for a prompt's picture. ids: the prompt's tokens."""
        text = f"{self.seed}|{','.join(map(str, ids))}"
        return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16)

    def regions(self, items: Sequence[Item], drawn: Drawn) -> list[DrawnRegion]:
        """The region of each concept of an item's targets that the segmenter finds in its picture."""
        all_regions = []
        for row, (item, picture) in enumerate(zip(items, drawn.pictures, strict=True)):
            for name in sorted({t.concept for t in item.targets}):
                mask = self.segmenter.find(picture, self.concepts[name])
                if mask is not None:
                    all_regions.append(DrawnRegion(row, name, torch.from_numpy(mask.astype(np.float32))))
        return all_regions

    def importance(self, states: Tensor, drawn: Drawn, regions: Sequence[DrawnRegion]) -> dict[tuple[int, str], Tensor]:
        """(row, concept) -> R, (J, d_model): the derivative of the region's content by the states."""
        by_region: dict[tuple[int, str], Tensor] = {}
        waiting = list(regions)
        while waiting:  # one region a row at a time, as rows are drawn in one batch
            current = {region.row: region for region in reversed(waiting)}
            shape = next(iter(current.values())).mask.shape
            masks = torch.stack([current[r].mask if r in current else torch.zeros(shape) for r in range(len(states))])
            gradient = self.live.drawer.importance(states, drawn, masks.to(states.device), self.how)
            by_region |= {(row, region.concept): gradient[row] for row, region in current.items()}
            waiting = [region for region in waiting if region is not current[region.row]]
        return by_region
