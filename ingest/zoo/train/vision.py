"""Stage 2: eyes for a frozen language model.

First tower and projector learn, from the masks, to tell what each patch shows and to place it where the words for
it lie; the head that tells it is thrown away. Then they learn captions and questions about whole pictures, which
enter as 16 tokens where contexts stood in stage 1. Nothing of the language model changes, so what it answers about
a picture it answers with the neurons it has. What a thing *has* is never asked of a picture here (see `senses.ASKED`).
"""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from transformers import CLIPVisionConfig, LlamaForCausalLM, LlavaConfig, LlavaForConditionalGeneration

from ingest.data.examples import FIND
from ingest.datasets import _scene
from ingest.datasets._scene import SIZE
from ingest.datasets._world import BY_NAME, COLOURS, DRAWN, ORDER, SLOTS, picture_questions
from ingest.datasets.scenes import Scenes
from ingest.zoo.train.corpus import Batch, Writer
from ingest.zoo.train.language import HEARD
from ingest.zoo.train.senses import ASKED, QuestionPool, Sense, SenseOptions, adopt, train_sense

PATCH = 16
SEVERAL = 0.8  # part of the captions that are of pictures with two or three things


VISION = SenseOptions(warmup=2400, alone=96, steps=800, shown=24000, captions=40, questions=24)


def vision_config() -> CLIPVisionConfig:
    """The vision tower's configuration."""
    return CLIPVisionConfig(
        image_size=SIZE,
        patch_size=PATCH,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        projection_dim=64,
    )


def assemble(language: LlamaForCausalLM, image_token: int, seed: int) -> LlavaForConditionalGeneration:
    """The language model with untrained eyes; its weights are copied and frozen."""
    torch.manual_seed(seed + 1)
    config = LlavaConfig(
        vision_config=vision_config(),
        text_config=language.config,
        image_token_index=image_token,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=SLOTS,
        tie_word_embeddings=False,
    )
    config.bos_token_id, config.eos_token_id = language.config.bos_token_id, language.config.eos_token_id
    config.pad_token_id = language.config.pad_token_id
    model = LlavaForConditionalGeneration(config)
    adopt(model, language)
    confine(model)
    return model


@torch.no_grad()
def confine(model: LlavaForConditionalGeneration) -> None:
    """A picture's tokens, as words, take only the part of the residual stream that answers are not read from."""
    last = model.model.multi_modal_projector.linear_2
    last.weight[HEARD:] = 0
    last.bias[HEARD:] = 0


class TrainingPictures:
    """Training pictures, drawn once and kept as bytes, with what may be asked of each.

    labels: (pictures, SLOTS, 3) numbers of the thing, colour and order (from the left) that a patch shows, 0 for
    the ground. words: the same shape, token ids of the words for it: sign, colour and order, or the background and
    twice the padding.
    """

    def __init__(self, world: Scenes, writer: Writer, pictures: int) -> None:
        self.writer = writer
        scenes = [_scene.compose(world.seed, FIND, number) for number in range(pictures)]
        self.pixels = np.stack([np.asarray(_scene.render(scene)) for scene in scenes])
        self.labels = torch.from_numpy(np.stack([_patches(scene) for scene in scenes]))
        self.words = self._words([scene.background for scene in scenes])
        single = {i: scene.things[0].name for i, scene in enumerate(scenes) if len(scene.things) == 1}
        captions = [scene.caption for scene in scenes]
        prompts = {task: picture_questions(task, FIND) for task in ("caption", *ASKED)}
        self.asking = QuestionPool(writer, captions, single, prompts, [writer.slot] * SLOTS, SEVERAL)

    def _words(self, backgrounds: list[str]) -> Tensor:
        things, colours, orders = (
            np.array([0, *map(self.writer.word, words)])
            for words in ([thing.signs[0] for thing in DRAWN], COLOURS, ORDER)
        )
        thing, colour, order = np.moveaxis(self.labels.numpy(), -1, 0)
        ground = np.array([self.writer.word(background) for background in backgrounds])[:, None]
        signs = np.where(thing == 0, ground, things[thing])
        return torch.from_numpy(np.stack([signs, colours[colour], orders[order]], -1))

    def draw(self, rng: random.Random, captions: int, questions: int) -> tuple[list[int], Batch]:
        return self.asking.draw(rng, captions, questions)

    def inputs(self, chosen: list[int]) -> Tensor:
        """(chosen, 3, height, width) pixels."""
        return scaled(self.pixels[chosen])


def _patches(scene: _scene.Scene) -> np.ndarray:
    """(SLOTS, 3): what `TrainingPictures.labels` holds of one picture."""
    labels = np.zeros((SLOTS, 3), np.int64)
    most = np.full(SLOTS, PATCH * PATCH // 12)  # a patch shows a thing from so many of its pixels on
    side = SIZE // PATCH
    for order, thing in enumerate(scene.things, 1):
        mask = _scene.mask(scene, thing.name).reshape(side, PATCH, side, PATCH)
        shown = mask.sum((1, 3)).reshape(SLOTS)
        labels[shown > most] = (DRAWN.index(BY_NAME[thing.name]) + 1, COLOURS.index(thing.colour) + 1, order)
        most = np.maximum(most, shown)
    return labels


def scaled(pixels: np.ndarray) -> Tensor:
    """(batch, height, width, 3) bytes to (batch, 3, height, width) from -1 to 1, as the processor does."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def train_vision(
    model: LlavaForConditionalGeneration,
    album: TrainingPictures,
    options: SenseOptions,
    seed: int,
    log: Callable[[str], None],
) -> None:
    """Tower and projector, first by what each patch shows, then through the language model, which stays frozen."""
    tower, projector = model.model.vision_tower, model.model.multi_modal_projector
    sense = Sense(
        "vision",
        tower,
        projector,
        width=vision_config().hidden_size,
        features=lambda pixels: tower(pixel_values=pixels).last_hidden_state[:, 1:],
        tokens=projector,
        label_sizes={"things": len(DRAWN) + 1, "colours": len(COLOURS) + 1, "order": len(ORDER) + 1},
        confine=lambda: confine(model),
    )
    train_sense(model, sense, album, options, seed, log)
