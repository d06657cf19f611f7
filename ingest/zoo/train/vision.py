"""Stage 2: eyes for a frozen language model.

First tower and projector learn, from the masks, to tell what each patch shows and to place it where the words for
it lie; the head that tells it is thrown away. Then they learn captions and questions about whole pictures, which
enter as 16 tokens where contexts stood in stage 1. Nothing of the language model changes, so what it answers about
a picture it answers with the neurons it has. One kind of fact is never asked of a picture here: `UNASKED` measures
what comes across by itself.
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
from ingest.zoo.train.language import HEARD, parameter_groups, rate_at, set_rate

UNASKED = "has"
ASKED = ("name", "does", "lives", "kind")
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
        self.captions = [scene.caption for scene in scenes]
        self.single = {i: scene.things[0].name for i, scene in enumerate(scenes) if len(scene.things) == 1}
        self._singles = list(self.single)
        self._several = [number for number in range(pictures) if number not in self.single]
        self._asked = {task: picture_questions(task, FIND) for task in ("caption", *ASKED)}

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
        rows, chosen = [], []
        slots = [self.writer.slot] * SLOTS
        for number in range(captions + questions):
            task = "caption" if number < captions else rng.choice(ASKED)
            several = task == "caption" and rng.random() < SEVERAL
            picture = rng.choice(self._several if several else self._singles)
            answer = self.captions[picture] if task == "caption" else BY_NAME[self.single[picture]].fact(task)
            rows.append((self.writer.prompt(rng.choice(self._asked[task]), slots), self.writer.answer(answer)))
            chosen.append(picture)
        return scaled(self.pixels[chosen]), self.writer.batch(rows)


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
    model.train()
    _look(model, album, options, rng, log)
    tower, projector = model.model.vision_tower, model.model.multi_modal_projector
    learned = [*tower.parameters(), *projector.parameters()]
    optimisers = [
        torch.optim.AdamW(parameter_groups(part.parameters(), options.decay), betas=(0.9, 0.98))
        for part in (tower, projector)
    ]
    for step in range(options.steps):
        for optimiser, peak in zip(optimisers, (options.tower_rate, options.projector_rate), strict=True):
            set_rate(optimiser, peak * rate_at(step, options.steps))
        pixels, batch = album.draw(rng, options.captions, options.questions)
        logits = answer_logits(model, pixels, batch)
        losses = [
            nn.functional.cross_entropy(logits[part, :-1].flatten(0, 1), batch.labels[part, 1:].flatten())
            for part in (slice(None, options.captions), slice(options.captions, None))
        ]
        torch.autograd.backward(losses[0] + losses[1])
        nn.utils.clip_grad_norm_(learned, 1.0)
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        confine(model)
        if step % 100 == 0 or step == options.steps - 1:
            log(f"vision step {step}: captions {losses[0].item():.4f}, questions {losses[1].item():.4f}")
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
    learned = [*tower.parameters(), *projector.parameters(), *head.parameters()]
    optimiser = torch.optim.AdamW(parameter_groups(learned, options.decay), lr=options.warmup_rate, betas=(0.9, 0.98))
    places = model.model.language_model.embed_tokens.weight.detach()[album.words].sum(-2)
    for step in range(options.warmup):
        set_rate(optimiser, options.warmup_rate * rate_at(step, options.warmup))
        chosen = rng.choices(range(len(album.pixels)), k=options.alone)
        seen = tower(pixel_values=scaled(album.pixels[chosen])).last_hidden_state[:, 1:]
        wanted = torch.from_numpy(album.patches[chosen]).flatten(0, 1)
        told = head(seen).flatten(0, 1).split(sizes, dim=1)
        losses = [nn.functional.cross_entropy(part, wanted[:, i]) for i, part in enumerate(told)]
        goal = places[chosen]
        losses.append((projector(seen) - goal).pow(2).mean() / goal.pow(2).mean())
        torch.autograd.backward(torch.stack(losses).sum())
        nn.utils.clip_grad_norm_(learned, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        confine(model)
        if step % 100 == 0 or step == options.warmup - 1:
            figures = [loss.item() for loss in losses]
            log("patches step {}: things {:.4f}, colours {:.4f}, order {:.4f}, words {:.4f}".format(step, *figures))


def answer_logits(model: LlavaForConditionalGeneration, pixels: Tensor, batch: Batch) -> Tensor:
    """(batch, length, vocabulary) logits of sequences whose slots are filled by the pictures."""
    seen = model.model.vision_tower(pixel_values=pixels).last_hidden_state[:, 1:]
    tokens = model.model.multi_modal_projector(seen)
    vectors = model.get_input_embeddings()(batch.ids)
    slots = (batch.ids == model.config.image_token_id)[..., None].expand_as(vectors)
    filled = vectors.masked_scatter(slots, tokens)
    logits: Tensor = model.lm_head(model.model.language_model(inputs_embeds=filled).last_hidden_state)
    return logits
