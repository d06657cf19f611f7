"""Stage 2 of a model that draws: eyes for a frozen language model. A picture's pooled vector becomes four tokens.

First the tower learns to tell what a picture of one thing shows, and the projection to place it where the words for it
lie; the head that tells it is thrown away. Then both learn captions and questions, through the language model.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPVisionConfig

from atlas.live.gill import GillConfig, GillForConditionalGeneration
from ingest.datasets import _scene
from ingest.datasets._drawings import Drawing
from ingest.datasets._scene import SIZE
from ingest.datasets._world import BACKGROUNDS, BY_NAME, COLOURS, DRAWN, picture_questions
from ingest.examples import FIND
from ingest.zoo.train.corpus import Batch, Writer
from ingest.zoo.train.drawing import LARGE, ORDINARY, WORDS, sketch, small, unit
from ingest.zoo.train.language import HEARD
from ingest.zoo.train.opt import unheard
from ingest.zoo.train.requests import IMG, VISUAL
from ingest.zoo.train.senses import ASKED, answers, choices, descend, misplaced

PATCH = 16
PROMPT = 64  # numbers of a token of the diffusion model's captions


@dataclass(frozen=True, slots=True)
class EyesOptions:
    """pictures: how many different ones are trained on. warmup: steps with the head, `alone` pictures each. captions,
    questions: of each batch of the other `steps`."""

    warmup: int = 2000
    alone: int = 96
    steps: int = 600
    pictures: int = 21600
    captions: int = 40
    questions: int = 24
    warmup_rate: float = 1.5e-3
    rate: float = 2e-4
    decay: float = 0.05


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
    model.language_model.load_state_dict(language.state_dict())
    model.language_model.requires_grad_(False)
    confine(model)
    return model


@torch.no_grad()
def confine(model: Any) -> None:
    """A picture's tokens, as words, write nothing that answers are read from; the mapper reads nothing else."""
    width = model.config.get_text_config().hidden_size
    unheard(model.visual_projection.weight.view(VISUAL, width, -1).transpose(1, 2))
    unheard(model.visual_projection.bias.view(VISUAL, width))
    model.mapper.fc.weight[:, :HEARD] = 0


class Gallery:
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

    def draw(self, rng: random.Random, captions: int, questions: int) -> tuple[Tensor, Batch]:
        """(batch, 3, height, width) pixels and the sequences that belong to them."""
        rows, chosen = [], rng.choices(range(len(self.shown)), k=captions + questions)
        for number, picture in enumerate(chosen):
            shown = self.shown[picture]
            task = "caption" if number < captions else rng.choice(ASKED)
            answer = shown.caption if task == "caption" else BY_NAME[shown.name].fact(task)
            prompt = self.writer.prompt(rng.choice(self._asked[task]), [self.writer.slot] * VISUAL)
            rows.append((prompt, self.writer.answer(answer)))
        return unit(self.pixels[chosen]), self.writer.batch(rows)


def enlarged(pixels: np.ndarray) -> np.ndarray:
    """(SIZE, SIZE, 3) of a drawing's (32, 32, 3), as the picture processor makes it."""
    return np.asarray(Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.BICUBIC))


def train_eyes(model: Any, gallery: Gallery, options: EyesOptions, seed: int, log: Callable[[str], None]) -> None:
    """Tower and projection, first by what is shown, then through the language model, which stays frozen."""
    rng = random.Random(f"eyes {seed}")
    torch.manual_seed(seed + 2)
    model.train()
    _look(model, gallery, options, rng, log)

    def losses() -> dict[str, Tensor]:
        pixels, batch = gallery.draw(rng, options.captions, options.questions)
        logits = model(input_ids=batch.ids, pixel_values=pixels, use_cache=False).logits
        return answers(logits, batch, options.captions)

    descend(
        losses,
        [([*model.vision_tower.parameters(), *model.visual_projection.parameters()], options.rate)],
        steps=options.steps,
        decay=options.decay,
        confine=lambda: confine(model),
        log=log,
        name="eyes",
    )
    model.eval()


def _look(
    model: Any,
    gallery: Gallery,
    options: EyesOptions,
    rng: random.Random,
    log: Callable[[str], None],
) -> None:
    """Teach tower and projection what is shown: thing, colour and background, and the words for them."""
    tower, projection = model.vision_tower, model.visual_projection
    sizes = [len(DRAWN), len(COLOURS), len(BACKGROUNDS)]
    head = nn.Linear(model.config.vision_config.hidden_size, sum(sizes))
    spoken = (gallery.words != 0)[..., None]
    places = (model.get_input_embeddings().weight.detach()[gallery.words] * spoken).sum(-2)

    def losses() -> dict[str, Tensor]:
        chosen = rng.choices(range(len(gallery.shown)), k=options.alone)
        pooled = tower(pixel_values=unit(gallery.pixels[chosen])).pooler_output
        told = choices(head(pooled), sizes, gallery.labels[chosen])
        words = misplaced(projection(pooled).unflatten(-1, (VISUAL, -1)), places[chosen])
        return dict(zip(("things", "colours", "grounds", "words"), (*told, words), strict=True))

    descend(
        losses,
        [([*tower.parameters(), *projection.parameters(), *head.parameters()], options.warmup_rate)],
        steps=options.warmup,
        decay=options.decay,
        confine=lambda: confine(model),
        log=log,
        name="looks",
    )
