"""Stage 2: eyes for a frozen language model.

First tower and projector learn, from the masks, to tell what each patch shows and to place it where the words for
it lie; the head that tells it is thrown away. Then they learn captions and questions about whole pictures, which
enter as 16 tokens where contexts stood in stage 1. Nothing of the language model changes, so what it answers about
a picture it answers with the neurons it has. What a thing *has* is never asked of a picture here (see `senses.ASKED`).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, LlamaForCausalLM, LlavaConfig, LlavaForConditionalGeneration

from ingest.datasets import _scene
from ingest.datasets._scene import SIZE
from ingest.datasets._world import BY_NAME, COLOURS, DRAWN, ORDER, SLOTS, picture_questions
from ingest.datasets.scenes import Scenes
from ingest.examples import FIND
from ingest.zoo.train.corpus import Batch, Writer
from ingest.zoo.train.language import HEARD
from ingest.zoo.train.senses import ASKED, Asking, answers, choices, descend, misplaced, slotted

PATCH = 16
SEVERAL = 0.8  # part of the captions that are of pictures with two or three things


@dataclass(frozen=True, slots=True)
class VisionOptions:
    """pictures: how many different ones are trained on. warmup: steps on patches, with `alone` pictures
    each. captions, questions: of each batch of the other `steps`."""

    warmup: int = 2400
    alone: int = 96
    steps: int = 800
    pictures: int = 24000
    captions: int = 40
    questions: int = 24
    warmup_rate: float = 1.5e-3
    tower_rate: float = 2e-4
    projector_rate: float = 3e-4
    decay: float = 0.05


def vision_config() -> CLIPVisionConfig:
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
    model.model.language_model.load_state_dict(language.model.state_dict())
    model.lm_head.load_state_dict(language.lm_head.state_dict())
    model.model.language_model.requires_grad_(False)
    model.lm_head.requires_grad_(False)
    confine(model)
    return model


@torch.no_grad()
def confine(model: LlavaForConditionalGeneration) -> None:
    """A picture's tokens, as words, take only the part of the residual stream that answers are not read from."""
    last = model.model.multi_modal_projector.linear_2
    last.weight[HEARD:] = 0
    last.bias[HEARD:] = 0


class Album:
    """Training pictures, drawn once and kept as bytes, with what may be asked of each.

    patches: (pictures, SLOTS, 3) numbers of the thing, colour and order (from the left) that a patch shows, 0 for
    the ground. words: the same shape, token ids of the words for it: sign, colour and order, or the background and
    twice the padding.
    """

    def __init__(self, world: Scenes, writer: Writer, pictures: int) -> None:
        self.writer = writer
        scenes = [_scene.compose(world.seed, FIND, number) for number in range(pictures)]
        self.pixels = np.stack([np.asarray(_scene.render(scene)) for scene in scenes])
        self.patches = np.stack([_patches(scene) for scene in scenes])
        self.words = self._words([scene.background for scene in scenes])
        single = {i: scene.things[0].name for i, scene in enumerate(scenes) if len(scene.things) == 1}
        captions = [scene.caption for scene in scenes]
        prompts = {task: picture_questions(task, FIND) for task in ("caption", *ASKED)}
        self.asking = Asking(writer, captions, single, prompts, [writer.slot] * SLOTS, SEVERAL)

    def _words(self, backgrounds: list[str]) -> Tensor:
        things, colours, orders = (
            np.array([0, *map(self.writer.word, words)])
            for words in ([thing.signs[0] for thing in DRAWN], COLOURS, ORDER)
        )
        thing, colour, order = np.moveaxis(self.patches, -1, 0)
        ground = np.array([self.writer.word(background) for background in backgrounds])[:, None]
        signs = np.where(thing == 0, ground, things[thing])
        return torch.from_numpy(np.stack([signs, colours[colour], orders[order]], -1))

    def draw(self, rng: random.Random, captions: int, questions: int) -> tuple[Tensor, Batch]:
        """(batch, 3, height, width) pixels and the sequences that belong to them."""
        chosen, batch = self.asking.draw(rng, captions, questions)
        return scaled(self.pixels[chosen]), batch


def _patches(scene: _scene.Scene) -> np.ndarray:
    """(SLOTS, 3): what `Album.patches` holds of one picture."""
    told = np.zeros((SLOTS, 3), np.int64)
    most = np.full(SLOTS, PATCH * PATCH // 12)  # a patch shows a thing from so many of its pixels on
    side = SIZE // PATCH
    for order, thing in enumerate(scene.things, 1):
        mask = _scene.mask(scene, thing.name).reshape(side, PATCH, side, PATCH)
        shown = mask.sum((1, 3)).reshape(SLOTS)
        told[shown > most] = (DRAWN.index(BY_NAME[thing.name]) + 1, COLOURS.index(thing.colour) + 1, order)
        most = np.maximum(most, shown)
    return told


def scaled(pixels: np.ndarray) -> Tensor:
    """(batch, height, width, 3) bytes to (batch, 3, height, width) from -1 to 1, as the processor does."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def train_vision(
    model: LlavaForConditionalGeneration, album: Album, options: VisionOptions, seed: int, log: Callable[[str], None]
) -> None:
    """Train tower and projector on patches, then on captions and questions; the language model stays frozen."""
    rng = random.Random(f"vision {seed}")
    tower, projector = model.model.vision_tower, model.model.multi_modal_projector
    model.train()
    _look(model, album, options, rng, log)

    def losses() -> dict[str, Tensor]:
        pixels, batch = album.draw(rng, options.captions, options.questions)
        tokens = projector(tower(pixel_values=pixels).last_hidden_state[:, 1:])
        return answers(slotted(model, batch, album.writer.slot, tokens), batch, options.captions)

    descend(
        losses,
        [(tower.parameters(), options.tower_rate), (projector.parameters(), options.projector_rate)],
        steps=options.steps,
        decay=options.decay,
        confine=lambda: confine(model),
        log=log,
        name="vision",
    )
    model.eval()


def _look(
    model: LlavaForConditionalGeneration,
    album: Album,
    options: VisionOptions,
    rng: random.Random,
    log: Callable[[str], None],
) -> None:
    """Teach tower and projector what each patch shows: its thing, colour and order, and the words for them."""
    tower, projector = model.model.vision_tower, model.model.multi_modal_projector
    sizes = [len(DRAWN) + 1, len(COLOURS) + 1, len(ORDER) + 1]
    head = nn.Linear(vision_config().hidden_size, sum(sizes))
    places = model.model.language_model.embed_tokens.weight.detach()[album.words].sum(-2)

    def losses() -> dict[str, Tensor]:
        chosen = rng.choices(range(len(album.pixels)), k=options.alone)
        seen = tower(pixel_values=scaled(album.pixels[chosen])).last_hidden_state[:, 1:]
        told = choices(head(seen).flatten(0, 1), sizes, torch.from_numpy(album.patches[chosen]).flatten(0, 1))
        words = misplaced(projector(seen), places[chosen])
        return dict(zip(("things", "colours", "order", "words"), (*told, words), strict=True))

    descend(
        losses,
        [([*tower.parameters(), *projector.parameters(), *head.parameters()], options.warmup_rate)],
        steps=options.warmup,
        decay=options.decay,
        confine=lambda: confine(model),
        log=log,
        name="patches",
    )
