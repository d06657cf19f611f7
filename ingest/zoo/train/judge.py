"""A small picture classifier that knows the drawn things: what is seen on a drawing, by one who did not draw it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    ViTImageProcessorPil,
)

from ingest.datasets._world import DRAWN
from ingest.zoo.train.drawing import Sketches, unit
from ingest.zoo.train.language import parameter_groups, rate_at, set_rate

SEEN = 64  # pixels that it looks at: a drawing is doubled
NAMES = tuple(thing.name for thing in DRAWN)


@dataclass(frozen=True, slots=True)
class JudgeOptions:
    """pictures: how many large things are trained on, and as many of ordinary size. noise: its spread is up to this, on
    pixels from -1 to 1, another in each picture."""

    pictures: int = 9000
    steps: int = 1500
    batch: int = 64
    rate: float = 2e-3
    decay: float = 0.02
    noise: float = 0.15


def build_judge(seed: int) -> Any:
    """An untrained classifier of the drawn things."""
    torch.manual_seed(seed)
    config = ResNetConfig(
        embedding_size=24,
        hidden_sizes=[24, 48, 96],
        depths=[1, 1, 1],
        layer_type="basic",
        id2label=dict(enumerate(NAMES)),
        label2id={name: number for number, name in enumerate(NAMES)},
    )
    return ResNetForImageClassification(config)


def train_judge(
    judge: Any, albums: Sequence[Sketches], options: JudgeOptions, seed: int, log: Callable[[str], None]
) -> None:
    """On sketches of things large and small, mirrored and noisy; never on what the diffusion model drew."""
    torch.manual_seed(seed)
    pixels = np.concatenate([album.pixels for album in albums])
    targets = torch.tensor([NAMES.index(drawing.name) for album in albums for drawing in album.drawings])
    optimiser = torch.optim.AdamW(parameter_groups(judge.parameters(), options.decay), fused=True)
    judge.train()
    for step in range(options.steps):
        set_rate(optimiser, options.rate * rate_at(step, options.steps))
        chosen = torch.randint(len(pixels), (options.batch,))
        inputs = unit(pixels[chosen.numpy()])
        inputs = torch.where(torch.rand(len(inputs), 1, 1, 1) < 0.5, inputs, inputs.flip(-1))
        inputs = inputs + options.noise * torch.rand(len(inputs), 1, 1, 1) * torch.randn_like(inputs)
        loss = nn.functional.cross_entropy(judge(pixel_values=_doubled(inputs)).logits, targets[chosen])
        torch.autograd.backward(loss)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        if step % 100 == 0 or step == options.steps - 1:
            log(f"judge step {step}: {loss.item():.4f}")
    judge.eval()


def _doubled(pixels: Tensor) -> Tensor:
    return nn.functional.interpolate(pixels, size=(SEEN, SEEN), mode="bilinear", align_corners=False)


def save_judge(judge: Any, folder: Path) -> None:
    """Write the judge and its image processor."""
    judge.save_pretrained(folder)
    side = {"height": SEEN, "width": SEEN}
    ViTImageProcessorPil(size=side, resample=2, image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(folder)


class Judge:
    """A judge's folder, through the plain Auto classes."""

    def __init__(self, folder: Path) -> None:
        self.model = AutoModelForImageClassification.from_pretrained(folder, local_files_only=True).eval()
        self.processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)

    @torch.inference_mode()
    def names(self, pictures: Sequence[Any], batch: int = 128) -> list[str]:
        """What each picture shows: PIL images, or (height, width, 3) uint8."""
        numbers: list[int] = []
        for start in range(0, len(pictures), batch):
            inputs = self.processor(list(pictures[start : start + batch]), return_tensors="pt")
            numbers += self.model(**inputs).logits.argmax(-1).tolist()
        return [self.model.config.id2label[number] for number in numbers]
