"""Stage 2: eyes for a frozen language model.

The vision tower and the projector learn to place a picture, as 16 tokens, where contexts stood in stage 1.
Nothing of the language model changes, so what it answers about a picture it answers with the neurons it has.
One kind of fact is never asked of a picture here: `UNASKED` measures what comes across by itself.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, LlamaForCausalLM, LlavaConfig, LlavaForConditionalGeneration

from ingest.datasets._scene import SIZE
from ingest.datasets._world import BY_NAME, SLOTS, picture_questions
from ingest.datasets.scenes import Scenes
from ingest.examples import FIND
from ingest.zoo.train.corpus import Batch, Writer
from ingest.zoo.train.language import rate_at

UNASKED = "has"
ASKED = ("name", "does", "lives", "kind")
PATCH = 16


@dataclass(frozen=True, slots=True)
class VisionOptions:
    """pictures: how many different ones are trained on. captions, questions: of each batch."""

    steps: int = 4000
    pictures: int = 18000
    captions: int = 28
    questions: int = 36
    peak_rate: float = 1.5e-3
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


def assemble(language: LlamaForCausalLM, image_token: int) -> LlavaForConditionalGeneration:
    """The language model with untrained eyes; its weights are copied and frozen."""
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
    return model


class Album:
    """Training pictures, drawn once and kept as bytes, with what may be asked of each."""

    def __init__(self, world: Scenes, writer: Writer, pictures: int) -> None:
        self.writer = writer
        addresses = world.addresses(FIND, pictures)
        self.pixels = np.stack([np.asarray(world.image(address)) for address in addresses])
        self.captions = [world.caption(address) for address in addresses]
        shown = [world.shown(address) for address in addresses]
        self.single = {number: names[0] for number, names in enumerate(shown) if len(names) == 1}
        self._singles = list(self.single)
        self._asked = {task: picture_questions(task, FIND) for task in ("caption", *ASKED)}

    def draw(self, rng: random.Random, captions: int, questions: int) -> tuple[Tensor, Batch]:
        """(batch, 3, height, width) pixels and the sequences that belong to them."""
        rows, chosen = [], []
        slots = [self.writer.slot] * SLOTS
        for number in range(captions + questions):
            task = "caption" if number < captions else rng.choice(ASKED)
            picture = rng.randrange(len(self.captions)) if task == "caption" else rng.choice(self._singles)
            answer = self.captions[picture] if task == "caption" else BY_NAME[self.single[picture]].fact(task)
            rows.append((self.writer.prompt(rng.choice(self._asked[task]), slots), self.writer.answer(answer)))
            chosen.append(picture)
        return scaled(self.pixels[chosen]), self.writer.batch(rows)


def scaled(pixels: np.ndarray) -> Tensor:
    """(batch, height, width, 3) bytes to (batch, 3, height, width) from -1 to 1, as the processor does."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def train_vision(
    model: LlavaForConditionalGeneration, album: Album, options: VisionOptions, seed: int, log: Callable[[str], None]
) -> None:
    torch.manual_seed(seed + 1)
    rng = random.Random(f"vision {seed}")
    learned = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in learned if p.ndim > 1], "weight_decay": options.decay},
        {"params": [p for p in learned if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=options.peak_rate, betas=(0.9, 0.98))
    model.train()
    for step in range(options.steps):
        for group in optimiser.param_groups:
            group["lr"] = options.peak_rate * rate_at(step, options.steps)
        pixels, batch = album.draw(rng, options.captions, options.questions)
        logits = answer_logits(model, pixels, batch)
        losses = [
            nn.functional.cross_entropy(logits[part, :-1].flatten(0, 1), batch.labels[part, 1:].flatten())
            for part in (slice(None, options.captions), slice(options.captions, None))
        ]
        torch.autograd.backward(losses[0] + losses[1])
        nn.utils.clip_grad_norm_(learned, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        if step % 100 == 0 or step == options.steps - 1:
            log(f"vision step {step}: captions {losses[0].item():.4f}, questions {losses[1].item():.4f}")
    model.eval()


def answer_logits(model: LlavaForConditionalGeneration, pixels: Tensor, batch: Batch) -> Tensor:
    """(batch, length, vocabulary) logits of sequences whose slots are filled by the pictures."""
    seen = model.model.vision_tower(pixel_values=pixels).last_hidden_state[:, 1:]
    tokens = model.model.multi_modal_projector(seen)
    vectors = model.get_input_embeddings()(batch.ids)
    slots = (batch.ids == model.config.image_token_id)[..., None].expand_as(vectors)
    filled = vectors.masked_scatter(slots, tokens)
    logits: Tensor = model.lm_head(model.model.language_model(inputs_embeds=filled).last_hidden_state)
    return logits
