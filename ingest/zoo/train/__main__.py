"""`python -m ingest.zoo.train --out DIR`: the embedded model, from nothing, with one seed.

Stage 1 trains the language model on text, stage 2 gives it eyes; then the folder is written and measured.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # or OpenMP's threads spin while others need the cores

import torch
from transformers import (
    CLIPImageProcessorPil,
    GenerationConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

from ingest.datasets._scene import SIZE
from ingest.datasets.scenes import build
from ingest.zoo.train.corpus import Corpus, Writer
from ingest.zoo.train.language import LanguageOptions, train_language
from ingest.zoo.train.measure import load, measure, write
from ingest.zoo.train.tokens import CHAT_TEMPLATE, build_tokenizer
from ingest.zoo.train.vision import PATCH, Album, VisionOptions, assemble, train_vision

THREADS = 2  # fixed, as sums depend on how many threads share them


def make(out: Path, seed: int, language: LanguageOptions, vision: VisionOptions, per_concept: int) -> dict[str, float]:
    """Train both stages and write the model folder.

    Returns:
        The figures of `measure`, which are also in the folder's figures.json.
    """
    torch.set_num_threads(THREADS)
    tokenizer = build_tokenizer()
    writer, world = Writer(tokenizer), build(seed=seed)
    start = time.monotonic()

    def log(line: str) -> None:
        print(f"{time.monotonic() - start:6.0f} s  {line}", flush=True)

    words = train_language(tokenizer, Corpus(writer), language, seed, log)
    model = assemble(words, writer.slot, seed)
    train_vision(model, Album(world, writer, vision.pictures), vision, seed, log)
    save(out, model, tokenizer)
    figures = measure(*load(out), world, per_concept)
    write(figures, out / "figures.json")
    for name, value in figures.items():
        log(f"{name:24} {100 * value:6.1f} %")
    return figures


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
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        max_new_tokens=32,
        do_sample=False,
    )
    model.save_pretrained(out)
    processor.save_pretrained(out)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m ingest.zoo.train", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the folder to write the model into")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--smoke", action="store_true", help="a few steps only: seconds, and a model that knows nothing"
    )
    chosen = parser.parse_args()
    logging.disable_progress_bar()
    language, vision, per_concept = LanguageOptions(), VisionOptions(), 12
    if chosen.smoke:
        language = replace(language, steps=3, texts=8, contexts=6)
        vision = replace(vision, warmup=3, alone=4, steps=3, pictures=72, captions=4, questions=4)
        per_concept = 1
    make(chosen.out, chosen.seed, language, vision, per_concept)


if __name__ == "__main__":
    main()
