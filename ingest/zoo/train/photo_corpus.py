"""What photo-vlm's projector learns from: photographs with human captions, crops named by the eyes themselves, and
features made to look like each class that the eyes know."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ingest.zoo.photo_vlm import picture_processor
from ingest.zoo.train._common import Stopwatch
from ingest.zoo.train.photo_classes import Looks, bare, plain_names

PEOPLE = re.compile(
    r"\b(person|people|man|men|woman|women|boy|boys|girl|girls|child|children|kid|kids|guy|guys|lady|ladies|"
    r"player|players|surfer|skier|skateboarder|baby|couple|crowd|group)\b",
    re.IGNORECASE,
)
WORDINGS = (
    "A photo of {}.",
    "A picture of {}.",
    "There is {} in the picture.",
    "{} in a photo.",
    "A close up of {}.",
)
LENGTHS = (0.5, 0.75, 1.0)


@dataclass(frozen=True, slots=True)
class CorpusOptions:
    """views: how many random views of a photograph are looked at. crops: how many random crops are offered to the
    classifier, a photograph. sure: the least probability for a crop to be named. most: crops of one class.
    alone: how many times as often photographs without people are shown. made: pictures made to look like each class.
    kept: how much of the photograph that they are made from is left."""

    views: int = 10
    crops: int = 30
    sure: float = 0.5
    most: int = 40
    alone: int = 3
    made: int = 2
    kept: float = 0.5


@dataclass(frozen=True, slots=True)
class Shown:
    """Views of one photograph, or a crop. views: (n, 49, 1,280) float16. captions: texts, of which some are drawn a
    step. weight: how often it is shown. named: whether the captions say what the eyes take it for."""

    views: Tensor
    captions: tuple[str, ...]
    weight: float
    named: bool = False


class Eyes:
    """The vision tower and its ImageNet classifier."""

    def __init__(self, tower: Any, published: dict[str, Tensor], names: Sequence[str]) -> None:
        # bfloat16 and channels last: four times as fast on a CPU as float32.
        self.tower = tower.to(torch.bfloat16).to(memory_format=torch.channels_last).eval()
        self.names, self.plain = [bare(name) for name in names], plain_names(names)
        self._weight, self._bias = published["_fc.weight"].float(), published["_fc.bias"].float()
        self._processor = picture_processor()

    @torch.inference_mode()
    def features(self, pictures: Sequence[Image.Image]) -> Tensor:
        """(pictures, 49, 1,280) float32."""
        pixels = self._processor(images=list(pictures), return_tensors="pt")["pixel_values"]
        pixels = pixels.to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
        cells: Tensor = self.tower(pixels).last_hidden_state.float()
        return cells.flatten(2).transpose(1, 2).contiguous()

    def captions(self, label: int) -> tuple[str, ...]:
        """Sentences that say the plain name of a class, and one with its own."""
        plain = tuple(wording.format(with_article(self.plain[label])) for wording in WORDINGS)
        own = WORDINGS[0].format(with_article(self.names[label]))
        return tuple(sentence(text) for text in (*plain, *([own] if self.names[label] != self.plain[label] else [])))

    def looks(self, pooled: Tensor) -> Looks:
        """What each class looks like, by the covariance of (pictures, 1,280) mean features."""
        return Looks(pooled, self._weight, self._bias)

    def classes(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(probability, class) of the likeliest class of each picture."""
        logits = features.mean(1) @ self._weight.T + self._bias
        best = logits.softmax(-1).max(-1)
        return best.values, best.indices


def read_captions(root: Path) -> dict[Path, list[str]]:
    """The human captions of every photograph of a COCO folder that has some, each ending in one full stop."""
    content = json.loads((root / "annotations" / "captions.json").read_text(encoding="utf-8"))
    by_id = {image["id"]: root / "images" / image["file_name"] for image in content["images"]}
    captions: dict[Path, list[str]] = {path: [] for path in by_id.values()}
    for row in content["annotations"]:
        captions[by_id[row["image_id"]]].append(sentence(row["caption"]))
    return {path: texts for path, texts in captions.items() if texts}


def with_article(name: str) -> str:
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def sentence(caption: str) -> str:
    text = " ".join(caption.split()).rstrip(" .!")
    return text[:1].upper() + text[1:] + "."


def random_crop(picture: Image.Image, least: float, most: float, random: np.random.Generator) -> Image.Image:
    """A crop of `least` to `most` of the area, its shape within 4:5 of the picture's; mirrored every other time."""
    area, stretch = random.uniform(least, most), math.exp(random.uniform(-0.22, 0.22))
    width = min(picture.width, round(picture.width * math.sqrt(area * stretch)))
    height = min(picture.height, round(picture.height * math.sqrt(area / stretch)))
    left, top = (int(random.integers(0, n + 1)) for n in (picture.width - width, picture.height - height))
    crop = picture.crop((left, top, left + width, top + height))
    return crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if random.random() < 0.5 else crop


def build_corpus(root: Path, eyes: Eyes, options: CorpusOptions, seed: int, log: Stopwatch) -> list[Shown]:
    """Every photograph with its views, then the named crops, then what is made to look like each class."""
    captions = read_captions(root)
    photographs, crops = [], []
    for place, (path, texts) in enumerate(captions.items()):
        random = np.random.default_rng([seed, place])
        with Image.open(path) as opened:
            picture = opened.convert("RGB")
        mirrored = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        views = [picture, mirrored, *(random_crop(picture, 0.6, 1.0, random) for _ in range(options.views - 2))]
        alone = not any(PEOPLE.search(text) for text in texts)
        photographs.append(Shown(eyes.features(views).half(), tuple(texts), options.alone if alone else 1))
        crops += list(_named_crops(picture, eyes, options, random))
        if place % 100 == 99:
            log(f"looked at {place + 1} of {len(captions)} photographs")
    kept, taken = [], Counter[int]()
    for _, label, features in sorted(crops, key=lambda crop: -crop[0]):
        if taken[label] < options.most:
            taken[label] += 1
            kept.append(Shown(features.half()[None], eyes.captions(label), 1, named=True))
    made = list(_made(photographs, eyes, options, seed))
    log(f"{len(photographs)} photographs, {len(kept)} crops of {len(taken)} classes, {len(made)} made to look like one")
    return [*photographs, *kept, *made]


def _made(photographs: Sequence[Shown], eyes: Eyes, options: CorpusOptions, seed: int) -> Iterator[Shown]:
    """For every class, photographs made to look like it; those of a name that many classes share are shown less."""
    looks = eyes.looks(torch.cat([shown.views.float().mean(1) for shown in photographs]))
    random = np.random.default_rng(seed)
    often = Counter(eyes.plain)
    for label, name in enumerate(eyes.plain):
        for _ in range(options.made):
            host = photographs[int(random.integers(len(photographs)))].views[0].float()
            made = [cells.half() for cells in looks.of(label, host, options.kept, LENGTHS)]
            if made:
                yield Shown(torch.stack(made), eyes.captions(label), often[name] ** -0.5, named=True)


def _named_crops(
    picture: Image.Image, eyes: Eyes, options: CorpusOptions, random: np.random.Generator
) -> Iterator[tuple[float, int, Tensor]]:
    """(probability, class, features) of the crops of a photograph that the classifier is sure of: of each class the
    surest, at most one for every ten crops."""
    features = eyes.features([random_crop(picture, 0.1, 0.7, random) for _ in range(options.crops)])
    probabilities, labels = eyes.classes(features)
    best = Counter[int]()
    for i in probabilities.argsort(descending=True).tolist():
        label = int(labels[i])
        if probabilities[i] >= options.sure and best[label] < max(1, options.crops // 10):
            best[label] += 1
            yield float(probabilities[i]), label, features[i].clone()
