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
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    Qwen2AudioConfig,
    Qwen2AudioEncoderConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2ForCausalLM,
    WhisperFeatureExtractor,
)

from ingest.datasets import _sounds
from ingest.datasets._sound_words import ALONE, AND, NOISES, SOUNDING, sound_questions
from ingest.datasets._sounds import SAMPLES, SECONDS
from ingest.datasets._voices import RATE
from ingest.datasets._world import BY_NAME, ORDER, SLOTS
from ingest.datasets.scenes import Scenes
from ingest.examples import FIND
from ingest.zoo.train.corpus import Batch, Writer
from ingest.zoo.train.language import HEARD
from ingest.zoo.train.senses import ASKED, Asking, answers, choices, descend, misplaced, slotted

HEIGHTS = 64  # mel bins
FRAMES = 4 * SLOTS  # the encoder halves them twice
SEVERAL = 0.7  # part of the captions that are of recordings with two things
PART = 0.25  # a thing sounds in a token if it does so in this part of the token's time


@dataclass(frozen=True, slots=True)
class HearingOptions:
    """recordings: how many different ones are trained on. warmup: steps on single tokens, with `alone` recordings
    each. captions, questions: of each batch of the other `steps`."""

    warmup: int = 2000
    alone: int = 64
    steps: int = 600
    recordings: int = 14400
    captions: int = 32
    questions: int = 32
    warmup_rate: float = 1.5e-3
    tower_rate: float = 2e-4
    projector_rate: float = 3e-4
    decay: float = 0.05


def extractor() -> WhisperFeatureExtractor:
    """Log-mel features of a recording: FRAMES frames of HEIGHTS bins, in windows of twice their distance."""
    return WhisperFeatureExtractor(
        feature_size=HEIGHTS, sampling_rate=RATE, hop_length=SAMPLES // FRAMES, chunk_length=SECONDS, n_fft=512
    )


def hearing_config() -> Qwen2AudioEncoderConfig:
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
    model.model.language_model.load_state_dict(language.model.state_dict())
    model.lm_head.load_state_dict(language.lm_head.state_dict())
    model.model.language_model.requires_grad_(False)
    model.lm_head.requires_grad_(False)
    confine(model)
    return model


@torch.no_grad()
def confine(model: Qwen2AudioForConditionalGeneration) -> None:
    """A recording's tokens, as words, take only the part of the residual stream that answers are not read from."""
    last = model.model.multi_modal_projector.linear
    last.weight[HEARD:] = 0
    last.bias[HEARD:] = 0


class Tape:
    """Training recordings, made once and kept as features, with what may be asked of each.

    features: (recordings, HEIGHTS, FRAMES) float16. told: (recordings, SLOTS, 4) numbers of the thing that began first
    and of the one that began second, each 0 where a token has none of it, of the noise, and 1 within both things.
    words: (recordings, SLOTS, 5) token ids of the words for it: two signs, two orders and AND, or the noise; the
    padding where there are fewer.
    """

    def __init__(self, world: Scenes, writer: Writer, recordings: int) -> None:
        self.writer = writer
        composed = [_sounds.compose(world.seed, FIND, number) for number in range(recordings)]
        hear = extractor()
        self.features = np.zeros((recordings, HEIGHTS, FRAMES), np.float16)
        self.told = np.zeros((recordings, SLOTS, 4), np.int64)
        for number, recording in enumerate(composed):
            self.features[number] = hear(recording.render(), sampling_rate=RATE)["input_features"][0]
            self.told[number] = _tokens(recording)
        self.words = self._words()
        single = {i: one.things[0].name for i, one in enumerate(composed) if one.manner == ALONE}
        captions = [recording.caption for recording in composed]
        prompts = {task: sound_questions(task, FIND) for task in ("caption", *ASKED)}
        self.asking = Asking(writer, captions, single, prompts, [writer.slot] * SLOTS, SEVERAL)

    def _words(self) -> Tensor:
        word = self.writer.word
        signs = np.array([0, *(word(thing.signs[0]) for thing in SOUNDING)])
        things = self.told[..., :2]
        orders = np.where(things == 0, 0, np.array([word(order) for order in ORDER[:2]]))
        noises = np.where(things.any(-1), 0, np.array([word(noise) for noise in NOISES])[self.told[..., 2]])
        within = np.where(things.any(-1) & (self.told[..., 3] > 0), word(AND), 0)
        shown = np.concatenate([signs[things], orders, within[..., None]], -1)
        shown[..., 0] += noises
        return torch.from_numpy(shown)

    def draw(self, rng: random.Random, captions: int, questions: int) -> tuple[Tensor, Batch]:
        """(batch, HEIGHTS, FRAMES) features and the sequences that belong to them."""
        chosen, batch = self.asking.draw(rng, captions, questions)
        return self.taken(chosen), batch

    def taken(self, chosen: list[int]) -> Tensor:
        """(chosen, HEIGHTS, FRAMES) float32 features."""
        return torch.from_numpy(self.features[chosen].astype(np.float32))


def _tokens(recording: _sounds.Recording) -> np.ndarray:
    """(SLOTS, 4): what `Tape.told` holds of one recording."""
    told = np.zeros((SLOTS, 4), np.int64)
    told[:, 2] = NOISES.index(recording.background)
    for order, thing in enumerate(recording.things):
        heard = recording.mask(thing.name).reshape(SLOTS, -1).mean(1) > PART
        told[heard, order] = SOUNDING.index(BY_NAME[thing.name]) + 1
    if recording.manner == AND:
        first, second = recording.things
        middles = (np.arange(SLOTS) + 0.5) * SAMPLES / SLOTS
        told[:, 3] = (second.onset <= middles) & (middles < first.onset + first.duration)
    return told


def train_hearing(
    model: Qwen2AudioForConditionalGeneration,
    tape: Tape,
    options: HearingOptions,
    seed: int,
    log: Callable[[str], None],
) -> None:
    """Train encoder and projector on tokens, then on captions and questions; the language model stays frozen."""
    rng = random.Random(f"hearing {seed}")
    tower, projector = model.model.audio_tower, model.model.multi_modal_projector
    model.train()
    _listen(model, tape, options, rng, log)

    def losses() -> dict[str, Tensor]:
        features, batch = tape.draw(rng, options.captions, options.questions)
        tokens = projector(tower(features).last_hidden_state)
        return answers(slotted(model, batch, tape.writer.slot, tokens), batch, options.captions)

    descend(
        losses,
        [(tower.parameters(), options.tower_rate), (projector.parameters(), options.projector_rate)],
        steps=options.steps,
        decay=options.decay,
        confine=lambda: confine(model),
        log=log,
        name="hearing",
    )
    model.eval()


def _listen(
    model: Qwen2AudioForConditionalGeneration,
    tape: Tape,
    options: HearingOptions,
    rng: random.Random,
    log: Callable[[str], None],
) -> None:
    """Teach encoder and projector what sounds within each token: things, noise, and the words for them."""
    tower, projector = model.model.audio_tower, model.model.multi_modal_projector
    sizes = [len(SOUNDING) + 1, len(SOUNDING) + 1, len(NOISES), 2]
    heads = nn.Linear(hearing_config().d_model, sum(sizes))
    known = (tape.words != 0)[..., None]
    places = (model.model.language_model.embed_tokens.weight.detach()[tape.words] * known).sum(-2)

    def losses() -> dict[str, Tensor]:
        chosen = rng.choices(range(len(tape.features)), k=options.alone)
        heard = tower(tape.taken(chosen)).last_hidden_state
        told = choices(heads(heard).flatten(0, 1), sizes, torch.from_numpy(tape.told[chosen]).flatten(0, 1))
        words = misplaced(projector(heard), places[chosen])
        return dict(zip(("first", "second", "noise", "both", "words"), (*told, words), strict=True))

    descend(
        losses,
        [([*tower.parameters(), *projector.parameters(), *heads.parameters()], options.warmup_rate)],
        steps=options.warmup,
        decay=options.decay,
        confine=lambda: confine(model),
        log=log,
        name="tokens",
    )
