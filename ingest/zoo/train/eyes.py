"""Stage 2 of a model that draws: eyes for a frozen language model. A picture's pooled vector becomes four tokens.

First the tower learns to tell what a picture of one thing shows, and the projection to place it where the words for it
lie; the head that tells it is thrown away. Then both learn captions and questions, through the language model.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import CLIPVisionConfig

from atlas.live.draw.gill_model import GillConfig, GillForConditionalGeneration
from ingest.data.examples import FIND
from ingest.datasets import _scene
from ingest.datasets._drawings import Drawing
from ingest.datasets._scene import SIZE
from ingest.datasets._world import BACKGROUNDS, BY_NAME, COLOURS, DRAWN, picture_questions
from ingest.zoo.train.corpus import Batch, Writer
from ingest.zoo.train.drawing import LARGE, ORDINARY, WORDS, sketch, small, unit
from ingest.zoo.train.language import HEARD
from ingest.zoo.train.opt import unheard
from ingest.zoo.train.requests import IMG, VISUAL
from ingest.zoo.train.senses import ASKED, Sense, SenseOptions, adopt, train_sense

PATCH = 16
PROMPT = 64  # numbers of a token of the diffusion model's captions


EYES = SenseOptions(warmup=2000, alone=96, steps=600, shown=21600, captions=40, questions=24, projector_rate=2e-4)


def assemble(language: Any, writer: Writer, seed: int) -> Any:
    """The language model with untrained eyes and an untrained mapper; its weights are copied and frozen."""
    torch.manual_seed(seed + 1)
    config = GillConfig(
        text_config=language.config,
        vision_config=CLIPVisionConfig(
            image_size=SIZE,
            patch_size=PATCH,
            hidden_size=112,
            intermediate_size=224,
            num_hidden_layers=4,
            num_attention_heads=4,
            projection_dim=64,
        ),
        visual_tokens=VISUAL,
        image_token_id=writer.slot,
        img_token_ids=writer.ids("".join(IMG)),
        mapper_width=64,
        mapper_encoder_layers=1,
        mapper_decoder_layers=2,
        mapper_heads=4,
        mapper_ffn_dim=128,
        mapper_queries=WORDS,
        prompt_width=PROMPT,
    )
    model = GillForConditionalGeneration(config)
    adopt(model, language)
    confine(model)
    return model


@torch.no_grad()
def confine(model: Any) -> None:
    """A picture's tokens, as words, write nothing that answers are read from; the mapper reads nothing else."""
    width = model.config.get_text_config().hidden_size
    unheard(model.visual_projection.weight.view(VISUAL, width, -1).transpose(1, 2))
    unheard(model.visual_projection.bias.view(VISUAL, width))
    model.mapper.fc.weight[:, :HEARD] = 0


class LabelledPictures:
    """Training pictures of one thing each: of ordinary size, large, and large but drawn with a quarter of the pixels.

    pixels: (pictures, SIZE, SIZE, 3) bytes. shown: what they show. labels: (pictures, 3) numbers of thing, colour and
    background. words: (pictures, VISUAL, 2) token ids of the words for them, or the padding.
    """

    def __init__(self, seed: int, writer: Writer, pictures: int) -> None:
        self.writer = writer
        self.pixels = np.empty((pictures, SIZE, SIZE, 3), np.uint8)
        self.shown: list[Drawing] = []
        for number in range(pictures):
            large = number // len(DRAWN) % 4
            scene = sketch(seed, FIND, number, LARGE if large >= 2 else ORDINARY)
            picture = _scene.render(scene)
            self.pixels[number] = enlarged(small(picture)) if large == 3 else np.asarray(picture)
            self.shown.append(Drawing(scene.things[0].name, scene.things[0].colour, scene.background))
        names = [thing.name for thing in DRAWN]
        self.labels = torch.tensor(
            [
                (names.index(shown.name), COLOURS.index(shown.colour), BACKGROUNDS.index(shown.background))
                for shown in self.shown
            ]
        )
        self.words = torch.tensor([self._words(shown) for shown in self.shown])
        self._asked = {task: picture_questions(task, FIND) for task in ("caption", *ASKED)}

    def _words(self, shown: Drawing) -> list[list[int]]:
        colour, ground = self.writer.word(shown.colour), self.writer.word(shown.background)
        signs = [[self.writer.word(sign), colour] for sign in BY_NAME[shown.name].signs]
        return [*signs, *[[ground, 0]] * (VISUAL - len(signs))]

    def draw(self, rng: random.Random, captions: int, questions: int) -> tuple[list[int], Batch]:
        rows, chosen = [], rng.choices(range(len(self.shown)), k=captions + questions)
        for number, picture in enumerate(chosen):
            shown = self.shown[picture]
            task = "caption" if number < captions else rng.choice(ASKED)
            answer = shown.caption if task == "caption" else BY_NAME[shown.name].fact(task)
            prompt = self.writer.prompt(rng.choice(self._asked[task]), [self.writer.slot] * VISUAL)
            rows.append((prompt, self.writer.answer(answer)))
        return chosen, self.writer.batch(rows)

    def inputs(self, chosen: list[int]) -> Tensor:
        """(chosen, 3, height, width) pixels."""
        return unit(self.pixels[chosen])


def enlarged(pixels: np.ndarray) -> np.ndarray:
    """(SIZE, SIZE, 3) of a drawing's (32, 32, 3), as the picture processor makes it."""
    return np.asarray(Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.BICUBIC))


def train_eyes(
    model: Any, gallery: LabelledPictures, options: SenseOptions, seed: int, log: Callable[[str], None]
) -> None:
    """Tower and projection, first by what is shown, then through the language model, which stays frozen."""
    torch.manual_seed(seed + 2)
    tower, projection = model.vision_tower, model.visual_projection
    sense = Sense(
        "eyes",
        tower,
        projection,
        width=model.config.vision_config.hidden_size,
        features=lambda pixels: tower(pixel_values=pixels).pooler_output,
        tokens=lambda pooled: projection(pooled).unflatten(-1, (VISUAL, -1)),
        label_sizes={"things": len(DRAWN), "colours": len(COLOURS), "grounds": len(BACKGROUNDS)},
        confine=lambda: confine(model),
    )
    train_sense(model, sense, gallery, options, seed, log)
