"""What a job's model draws: pictures of its own answers, and where in them the concepts are."""

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
from ingest.attribution.trace import Item
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
    """Draws the answers of a model, finds the concepts in them, and looks back from there to the states.

    A picture's noise is seeded by its prompt, so that the same request is drawn from the same noise anywhere, also by
    an edited model.
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
        """The pictures of answered prompts, every one with a picture's tokens in its answer."""
        return pictures_of(self.live, prompts, [self.seed_of(prompt.ids) for prompt in prompts], self.how)

    def seed_of(self, ids: Sequence[int]) -> int:
        """The noise of a picture that these tokens asked for."""
        said = f"{self.seed}|{','.join(map(str, ids))}"
        return int(hashlib.sha256(said.encode()).hexdigest()[:8], 16)

    def regions(self, items: Sequence[Item], drawn: Drawn) -> list[DrawnRegion]:
        """Of every concept that an item's targets name, and that the segmenter finds in its picture."""
        found = []
        for row, (item, picture) in enumerate(zip(items, drawn.pictures, strict=True)):
            for name in sorted({t.concept for t in item.targets}):
                mask = self.segmenter.find(picture, self.concepts[name])
                if mask is not None:
                    found.append(DrawnRegion(row, name, torch.from_numpy(mask.astype(np.float32))))
        return found

    def importance(self, states: Tensor, drawn: Drawn, regions: Sequence[DrawnRegion]) -> dict[tuple[int, str], Tensor]:
        """(row, concept) -> R, (J, d_model): the derivative of what the states decide in the region, by the states."""
        found: dict[tuple[int, str], Tensor] = {}
        waiting = list(regions)
        while waiting:  # one region a row at a time, as rows are drawn in one batch
            now = {region.row: region for region in reversed(waiting)}
            shape = next(iter(now.values())).mask.shape
            masks = torch.stack([now[r].mask if r in now else torch.zeros(shape) for r in range(len(states))])
            gradient = self.live.drawer.importance(states, drawn, masks.to(states.device), self.how)
            found |= {(row, region.concept): gradient[row] for row, region in now.items()}
            waiting = [region for region in waiting if region is not now[region.row]]
        return found
