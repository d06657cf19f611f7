"""Any HuggingFace model for semantic segmentation (SegFormer, EVA-02 heads, ...), by id or folder.

Its labels are compared with the concept's words: the region is where any of them is likeliest.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from atlas.errors import UsageError
from atlas.live.load.fingerprint import fingerprint
from atlas.live.load.parts import load_part
from atlas.live.pixels import rgb

if TYPE_CHECKING:
    from PIL.Image import Image

    from ingest.data.examples import Concept


NEEDED = "the segmenter hf needs a model: [[segmenting=model=FOLDER_OR_ID]]"


class SemanticSegmenter:
    """See the module. reader: the image processor. least: the smallest fraction of the picture that counts."""

    def __init__(self, model: Any, reader: Any, least: float):
        self.model, self.reader, self.least = model, reader, least

    @property
    def identity(self) -> str:
        return fingerprint(self.model)

    def require(self, concepts: Sequence[Concept]) -> None:
        for concept in concepts:
            self._labels(concept)

    @torch.no_grad()
    def find(self, picture: Image, concept: Concept) -> np.ndarray | None:
        label_ids = self._labels(concept)
        inputs = self.reader(images=rgb(picture), return_tensors="pt").to(self.model.device)
        logits = self.model(**inputs).logits
        # Half-pixel centres, as in segmentation labels.
        full_size = torch.nn.functional.interpolate(
            logits.float(), size=(picture.height, picture.width), mode="bilinear", align_corners=False
        )
        region: np.ndarray = np.isin(full_size[0].argmax(0).cpu().numpy(), label_ids)
        return region if region.mean() > self.least else None

    def _labels(self, concept: Concept) -> list[int]:
        forms = set(concept.forms)
        label_ids = [i for i, label in self.model.config.id2label.items() if forms & _words(label)]
        if not label_ids:
            examples = ", ".join(list(self.model.config.id2label.values())[:8])
            raise UsageError(f"the segmentation model has no label for {concept.name}; it has {examples}, ...")
        return label_ids


def _words(label: str) -> set[str]:
    """ "dining table, board" -> the names that it stands for."""
    return {part.strip().lower() for part in label.replace(";", ",").split(",")}


def build(*, model: str = "", revision: str = "", device: str = "cpu", least: float = 0.001) -> SemanticSegmenter:
    """model: a folder or HuggingFace id, at a revision. device: where it runs. least: the smallest fraction of the
    picture that counts as a region.

    Raises:
        UsageError: no model was given, or it cannot be loaded.
    """
    return SemanticSegmenter(*_load(model, revision, device), least)


@lru_cache(maxsize=2)
def _load(model: str, revision: str, device: str) -> tuple[Any, Any]:
    import transformers

    from atlas.live.load.checkpoints import find_device

    messages = {"needed": NEEDED, "failed": "the segmenter hf"}
    network = load_part(transformers.AutoModelForSemanticSegmentation, model, revision, **messages)
    reader = load_part(transformers.AutoImageProcessor, model, revision, **messages)
    return network.eval().requires_grad_(False).to(find_device(device)), reader
