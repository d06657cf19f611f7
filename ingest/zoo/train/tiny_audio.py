"""tiny-audio, in two stages: first the language model alone on text, then ears for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast, Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor

from ingest.data.examples import AUDIO as HEARD
from ingest.datasets.scenes import build
from ingest.zoo.train._common import Stopwatch, finish, greedy
from ingest.zoo.train.corpus import Writer
from ingest.zoo.train.hearing import HEARING, TrainingRecordings, assemble, extractor, train_hearing
from ingest.zoo.train.language import QWEN2, LanguageOptions, train_language
from ingest.zoo.train.measure import load, measure
from ingest.zoo.train.sound_corpus import SoundCorpus
from ingest.zoo.train.tokens import AUDIO, AUDIO_BOS, AUDIO_EOS, HEARD_TEMPLATE, build_heard_tokenizer

THREADS = 1  # fixed, as sums depend on how many threads share them; its batches gain little from a second


def make(out: Path, *, seed: int, smoke: bool) -> None:
    """Train both stages, write the model folder and measure it."""
    language, hearing, per_concept = LanguageOptions(), HEARING, 12
    if smoke:
        language = replace(language, steps=3, texts=8, contexts=6)
        hearing = replace(hearing, warmup=3, alone=4, steps=3, shown=72, captions=4, questions=4)
        per_concept = 1
    torch.set_num_threads(THREADS)
    tokenizer = build_heard_tokenizer()
    writer = Writer(tokenizer, AUDIO, AUDIO_BOS, AUDIO_EOS)
    world, log = build(seed=seed), Stopwatch()
    words = train_language(tokenizer, SoundCorpus(writer), language, seed, log, QWEN2)
    model = assemble(words, writer.slot, seed)
    train_hearing(model, TrainingRecordings(world, writer, hearing.shown), hearing, seed, log)
    save(out, model, tokenizer)
    finish(measure(*load(out), world, per_concept, HEARD), out, log)


def save(out: Path, model: Qwen2AudioForConditionalGeneration, tokenizer: PreTrainedTokenizerFast) -> None:
    """The folder that AutoModelForMultimodalLM and AutoProcessor load."""
    model.generation_config = greedy(tokenizer)
    model.save_pretrained(out)
    Qwen2AudioProcessor(extractor(), tokenizer, chat_template=HEARD_TEMPLATE).save_pretrained(out)
