"""tiny-llava, in two stages: first the language model alone on text, then eyes for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from transformers import (
    CLIPImageProcessorPil,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from ingest.datasets._scene import SIZE
from ingest.datasets.scenes import build
from ingest.zoo.train._common import THREADS, Stopwatch, finish, greedy
from ingest.zoo.train.corpus import Corpus, Writer
from ingest.zoo.train.language import LanguageOptions, train_language
from ingest.zoo.train.measure import load, measure
from ingest.zoo.train.tokens import CHAT_TEMPLATE, build_tokenizer
from ingest.zoo.train.vision import PATCH, VISION, TrainingPictures, assemble, train_vision


def make(out: Path, *, seed: int, smoke: bool) -> None:
    """Train both stages, write the model folder and measure it."""
    language, vision, per_concept = LanguageOptions(), VISION, 12
    if smoke:
        language = replace(language, steps=3, texts=8, contexts=6)
        vision = replace(vision, warmup=3, alone=4, steps=3, shown=72, captions=4, questions=4)
        per_concept = 1
    torch.set_num_threads(THREADS)
    tokenizer = build_tokenizer()
    writer, world, log = Writer(tokenizer), build(seed=seed), Stopwatch()
    words = train_language(tokenizer, Corpus(writer), language, seed, log)
    model = assemble(words, writer.slot, seed)
    train_vision(model, TrainingPictures(world, writer, vision.shown), vision, seed, log)
    save(out, model, tokenizer)
    finish(measure(*load(out), world, per_concept), out, log)


def save(out: Path, model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast) -> None:
    """The folder that AutoModelForImageTextToText and AutoProcessor load."""
    side = {"height": SIZE, "width": SIZE}
    picture = CLIPImageProcessorPil(
        size={"shortest_edge": SIZE}, crop_size=side, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    processor = LlavaProcessor(
        picture,
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
    model.generation_config = greedy(tokenizer)
    model.save_pretrained(out)
    processor.save_pretrained(out)
