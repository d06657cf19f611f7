"""Stage 2: ears for a frozen language model.

First encoder and projector learn, from the masks, to tell what sounds within each token's time and to place it where
the words for it lie; the heads that tell it are thrown away. Then they learn captions and questions about whole
recordings, which enter as 16 tokens where contexts stood in stage 1. Nothing of the language model changes, so what it
answers about a recording it answers with the neurons it has. What a thing *has* is never asked of a recording here
(see `senses.ASKED`).
"""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from transformers import (
    Qwen2AudioConfig,
    Qwen2AudioEncoderConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2ForCausalLM,
    WhisperFeatureExtractor,
)

from ingest.data.examples import FIND
from ingest.datasets import _sounds
from ingest.datasets._sound_words import ALONE, AND, NOISES, SOUNDING, sound_questions
from ingest.datasets._sounds import SAMPLES, SECONDS
from ingest.datasets._voices import RATE
from ingest.datasets._world import BY_NAME, ORDER, SLOTS
from ingest.datasets.scenes import Scenes
from ingest.zoo.train.corpus import Batch, Writer
from ingest.zoo.train.language import HEARD
from ingest.zoo.train.senses import ASKED, QuestionPool, Sense, SenseOptions, adopt, train_sense

HEIGHTS = 64  # mel bins
FRAMES = 4 * SLOTS  # the encoder halves them twice
SEVERAL = 0.7  # part of the captions that are of recordings with two things
PART = 0.25  # a thing sounds in a token if it does so in this part of the token's time


HEARING = SenseOptions(warmup=2000, alone=64, steps=600, shown=14400, captions=32, questions=32)


def extractor() -> WhisperFeatureExtractor:
    """Log-mel features of a recording: FRAMES frames of HEIGHTS bins, in windows of twice their distance."""
    return WhisperFeatureExtractor(
        feature_size=HEIGHTS, sampling_rate=RATE, hop_length=SAMPLES // FRAMES, chunk_length=SECONDS, n_fft=512
    )


def hearing_config() -> Qwen2AudioEncoderConfig:
    """The audio encoder's configuration."""
    return Qwen2AudioEncoderConfig(
        num_mel_bins=HEIGHTS,
        d_model=128,
        encoder_layers=3,
        encoder_attention_heads=4,
        encoder_ffn_dim=256,
        max_source_positions=FRAMES // 2,
    )


def assemble(language: Qwen2ForCausalLM, audio_token: int, seed: int) -> Qwen2AudioForConditionalGeneration:
    """The language model with untrained ears; its weights are copied and frozen."""
    torch.manual_seed(seed + 1)
    config = Qwen2AudioConfig(audio_config=hearing_config(), text_config=language.config, audio_token_index=audio_token)
    config.bos_token_id, config.eos_token_id = language.config.bos_token_id, language.config.eos_token_id
    config.pad_token_id = language.config.pad_token_id
    model = Qwen2AudioForConditionalGeneration(config)
    adopt(model, language)
    confine(model)
    return model


@torch.no_grad()
def confine(model: Qwen2AudioForConditionalGeneration) -> None:
    """A recording's tokens, as words, take only the part of the residual stream that answers are not read from."""
    last = model.model.multi_modal_projector.linear
    last.weight[HEARD:] = 0
    last.bias[HEARD:] = 0


class TrainingRecordings:
    """Training recordings, made once and kept as features, with what may be asked of each.

    features: (recordings, HEIGHTS, FRAMES) float16. labels: (recordings, SLOTS, 4) numbers of the thing that began
    first and of the one that began second, each 0 where a token has none of it, of the noise, and 1 within both
    things. words: (recordings, SLOTS, 5) token ids of the words for it: two signs, two orders and AND, or the noise;
    the padding where there are fewer.
    """

    def __init__(self, world: Scenes, writer: Writer, recordings: int) -> None:
        self.writer = writer
        composed = [_sounds.compose(world.seed, FIND, number) for number in range(recordings)]
        hear = extractor()
        self.features = np.zeros((recordings, HEIGHTS, FRAMES), np.float16)
        for number, recording in enumerate(composed):
            self.features[number] = hear(recording.render(), sampling_rate=RATE)["input_features"][0]
        self.labels = torch.from_numpy(np.stack([_tokens(recording) for recording in composed]))
        self.words = self._words()
        single = {i: recording.things[0].name for i, recording in enumerate(composed) if recording.manner == ALONE}
        captions = [recording.caption for recording in composed]
        prompts = {task: sound_questions(task, FIND) for task in ("caption", *ASKED)}
        self.asking = QuestionPool(writer, captions, single, prompts, [writer.slot] * SLOTS, SEVERAL)

    def _words(self) -> Tensor:
        word = self.writer.word
        signs = np.array([0, *(word(thing.signs[0]) for thing in SOUNDING)])
        labels = self.labels.numpy()
        things = labels[..., :2]
        orders = np.where(things == 0, 0, np.array([word(order) for order in ORDER[:2]]))
        noises = np.where(things.any(-1), 0, np.array([word(noise) for noise in NOISES])[labels[..., 2]])
        within = np.where(things.any(-1) & (labels[..., 3] > 0), word(AND), 0)
        shown = np.concatenate([signs[things], orders, within[..., None]], -1)
        shown[..., 0] += noises
        return torch.from_numpy(shown)

    def draw(self, rng: random.Random, captions: int, questions: int) -> tuple[list[int], Batch]:
        return self.asking.draw(rng, captions, questions)

    def inputs(self, chosen: list[int]) -> Tensor:
        """(chosen, HEIGHTS, FRAMES) float32 features."""
        return torch.from_numpy(self.features[chosen].astype(np.float32))


def _tokens(recording: _sounds.Recording) -> np.ndarray:
    """(SLOTS, 4): what `TrainingRecordings.labels` holds of one recording."""
    labels = np.zeros((SLOTS, 4), np.int64)
    labels[:, 2] = NOISES.index(recording.background)
    for order, thing in enumerate(recording.things):
        sounding = recording.mask(thing.name).reshape(SLOTS, -1).mean(1) > PART
        labels[sounding, order] = SOUNDING.index(BY_NAME[thing.name]) + 1
    if recording.manner == AND:
        first, second = recording.things
        middles = (np.arange(SLOTS) + 0.5) * SAMPLES / SLOTS
        labels[:, 3] = (second.onset <= middles) & (middles < first.onset + first.duration)
    return labels


def train_hearing(
    model: Qwen2AudioForConditionalGeneration,
    tape: TrainingRecordings,
    options: SenseOptions,
    seed: int,
    log: Callable[[str], None],
) -> None:
    """Encoder and projector, first by what sounds within each token, then through the language model, which stays
    frozen."""
    tower, projector = model.model.audio_tower, model.model.multi_modal_projector
    things = len(SOUNDING) + 1
    sense = Sense(
        "hearing",
        tower,
        projector,
        width=hearing_config().d_model,
        features=lambda heard: tower(heard).last_hidden_state,
        tokens=projector,
        label_sizes={"first": things, "second": things, "noise": len(NOISES), "both": 2},
        confine=lambda: confine(model),
    )
    train_sense(model, sense, tape, options, seed, log)
