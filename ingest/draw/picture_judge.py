"""What a picture shows, according to a model independent of the one that drew it.

A HuggingFace image classifier, whose labels are compared with the concepts' words; or a CLIP, which compares the
picture with the concepts' names.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from atlas.errors import UsageError
from atlas.live.load.fingerprint import fingerprint
from atlas.live.load.parts import load_part
from atlas.live.model import LiveModel
from atlas.live.pixels import rgb
from ingest.data.examples import IMAGE, Concept, Example

if TYPE_CHECKING:
    from PIL.Image import Image

FOLDER = "judge"
"""The folder of a drawing model's own judge, beside its weights."""


class PictureJudge(Protocol):
    """Recognises what a picture shows. identity: 64 hex digits of its weights."""

    @property
    def identity(self) -> str: ...

    def known(self, concepts: Sequence[Concept]) -> list[Concept]:
        """The concepts that it can recognise."""
        ...

    def judge(self, pictures: Sequence[Image], concepts: Sequence[Concept]) -> tuple[np.ndarray, np.ndarray]:
        """(pictures, concepts) probabilities, and (pictures,) the index of the likeliest; -1 for something else."""
        ...


class ClassifierJudge:
    """Softmax over all of a classifier's labels; a concept's labels are summed."""

    def __init__(self, model: Any, reader: Any):
        self.model, self.reader = model, reader
        self.labels = {i: _names(label) for i, label in model.config.id2label.items()}

    @property
    def identity(self) -> str:
        return fingerprint(self.model)

    def known(self, concepts: Sequence[Concept]) -> list[Concept]:
        return [concept for concept in concepts if self._own(concept)]

    def _own(self, concept: Concept) -> list[int]:
        return [i for i, names in self.labels.items() if names & set(concept.forms)]

    @torch.no_grad()
    def judge(self, pictures: Sequence[Image], concepts: Sequence[Concept]) -> tuple[np.ndarray, np.ndarray]:
        labels_by_concept = [self._own(concept) for concept in concepts]
        inputs = self.reader(images=[rgb(p) for p in pictures], return_tensors="pt").to(self.model.device)
        probabilities = self.model(**inputs).logits.float().softmax(-1).cpu().numpy()
        best = probabilities.argmax(-1)
        concept_of = {label: number for number, labels in enumerate(labels_by_concept) for label in labels}
        return np.stack([probabilities[:, labels].sum(1) for labels in labels_by_concept], 1), np.array(
            [concept_of.get(int(b), -1) for b in best]
        )


class ZeroShotJudge:
    """CLIP's similarity with "a photo of a NAME", softmax over the concepts at its own temperature."""

    def __init__(self, model: Any, reader: Any, prefix: str = "a photo of a "):
        self.model, self.reader, self.prefix = model, reader, prefix

    @property
    def identity(self) -> str:
        return fingerprint(self.model)

    def known(self, concepts: Sequence[Concept]) -> list[Concept]:
        return list(concepts)

    @torch.no_grad()
    def judge(self, pictures: Sequence[Image], concepts: Sequence[Concept]) -> tuple[np.ndarray, np.ndarray]:
        texts = [f"{self.prefix}{concept.name}" for concept in concepts]
        inputs = self.reader(text=texts, images=[rgb(p) for p in pictures], return_tensors="pt", padding=True).to(
            self.model.device
        )
        probabilities = self.model(**inputs).logits_per_image.float().softmax(-1).cpu().numpy()
        return probabilities, probabilities.argmax(-1)


def _names(label: str) -> set[str]:
    return {part.strip().lower() for part in label.replace(";", ",").split(",")}


def judge_for(
    live: LiveModel, examples: Sequence[Example], concepts: Sequence[Concept], model: str | None, notes: list[str]
) -> PictureJudge | None:
    """The judge of the pictures that examples ask for: a classifier or CLIP by name, or the model's own.

    None where no picture is requested, or where there is no judge, in which case a note is added.
    concepts: all that pictures may show; the judge must know every requested one, and at least two.

    Raises:
        UsageError: it cannot be loaded, or does not know a requested concept.
    """
    requested = {mention.concept for e in examples if e.target == IMAGE for mention in e.mentions}
    if not requested:
        return None
    own_judge = None if live.of_hub else live.folder / FOLDER
    if model is None and (own_judge is None or not own_judge.is_dir()):
        notes.append("no judge for the drawn pictures: name an image classifier or a CLIP as the judge")
        return None
    judge = load_judge(model or str(own_judge), device=str(live.device))
    names = [concept.name for concept in judge.known(concepts)]
    if lacking := sorted(requested - set(names)):
        raise UsageError(f"the judge does not know {', '.join(lacking)}; it knows {', '.join(names[:8]) or 'none'}")
    if len(names) < 2:
        raise UsageError("the judge knows only one concept of the dataset; choose another [[judge]] or [[dataset]]")
    return judge


def load_judge(model: str | Path, *, device: str = "cpu") -> PictureJudge:
    """A judge by folder or HuggingFace id.

    Raises:
        UsageError: it cannot be loaded.
    """
    import transformers

    from atlas.live.load.checkpoints import find_device

    messages = {"needed": "name a judge: a folder or HuggingFace id", "failed": "the judge of pictures"}
    name = str(model)
    config = load_part(transformers.AutoConfig, name, "", **messages)
    if isinstance(config, transformers.CLIPConfig):
        clip = load_part(transformers.CLIPModel, name, "", **messages)
        return ZeroShotJudge(
            clip.eval().to(find_device(device)), load_part(transformers.AutoProcessor, name, "", **messages)
        )
    network = load_part(transformers.AutoModelForImageClassification, name, "", **messages)
    reader = load_part(transformers.AutoImageProcessor, name, "", **messages)
    return ClassifierJudge(network.eval().to(find_device(device)), reader)
