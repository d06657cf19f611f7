"""tiny-gill: a diffusion model and a judge of drawings, then a language model, its eyes, and what it imagines."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPImageProcessorPil

from atlas.live.draw.diffusion import FOLDER
from atlas.live.draw.gill_model import GillProcessor
from ingest.data.examples import FIND
from ingest.datasets._scene import SIZE
from ingest.datasets.scenes import build
from ingest.zoo.train._common import Stopwatch, finish, greedy
from ingest.zoo.train.corpus import Writer
from ingest.zoo.train.diffusion import (
    DiffusionOptions,
    build_pipeline,
    save_pipeline,
    sharpen_decoder,
    train_coder,
    train_denoiser,
)
from ingest.zoo.train.drawing import LARGE, ORDINARY, Sketches, caption_tokenizer
from ingest.zoo.train.eyes import EYES, LabelledPictures, assemble, train_eyes
from ingest.zoo.train.imagining import CaptionEncodings, ImaginingOptions, RequestBatches, train_imagining
from ingest.zoo.train.judge import JudgeOptions, build_judge, save_judge, train_judge
from ingest.zoo.train.language import LanguageOptions, train_language
from ingest.zoo.train.measure_drawing import measure_all
from ingest.zoo.train.opt import OPT
from ingest.zoo.train.requests import VISUAL, DrawingCorpus, drawing_writer
from ingest.zoo.train.senses import SenseOptions
from ingest.zoo.train.tokens import CHAT_TEMPLATE

THREADS = 1  # the model in this folder was trained on one; sums depend on how many share them
JUDGE = "judge"


@dataclass(frozen=True, slots=True)
class GillPlan:
    """per_concept, per_thing: how many questions and drawings are measured."""

    diffusion: DiffusionOptions = field(default_factory=DiffusionOptions)
    judge: JudgeOptions = field(default_factory=JudgeOptions)
    language: LanguageOptions = field(default_factory=lambda: LanguageOptions(steps=1100, texts=88))
    eyes: SenseOptions = EYES
    imagining: ImaginingOptions = field(default_factory=ImaginingOptions)
    per_concept: int = 12
    per_thing: int = 12


def smoke_plan() -> GillPlan:
    full = GillPlan()
    return GillPlan(
        replace(full.diffusion, pictures=72, coder_steps=2, coder_batch=4, sharpening=2, steps=2, batch=4),
        replace(full.judge, pictures=72, steps=2, batch=4),
        replace(full.language, steps=3, texts=8, contexts=6),
        replace(full.eyes, warmup=2, alone=4, steps=2, shown=72, captions=4, questions=4),
        replace(full.imagining, steps=2, requests=4, texts=2),
        per_concept=1,
        per_thing=1,
    )


def make(out: Path, *, seed: int, smoke: bool) -> None:
    """Train every part, write the model folder and measure it. Each part is seeded by itself."""
    plan = smoke_plan() if smoke else GillPlan()
    torch.set_num_threads(THREADS)
    log, world = Stopwatch(), build(seed=seed)
    pipeline = make_pipeline(plan.diffusion, seed, log)
    save_pipeline(pipeline, out / FOLDER)
    albums = [Sketches(seed, FIND, plan.judge.pictures, sizes) for sizes in (LARGE, ORDINARY)]
    judge = build_judge(seed)
    train_judge(judge, albums, plan.judge, seed, log)
    save_judge(judge, out / JUDGE)
    writer = drawing_writer()
    corpus = DrawingCorpus(writer)
    words = train_language(writer.tokenizer, corpus, plan.language, seed, log, OPT)
    model = assemble(words, writer, seed)
    train_eyes(model, LabelledPictures(seed, writer, plan.eyes.shown), plan.eyes, seed, log)
    train_imagining(model, RequestBatches(corpus), CaptionEncodings(pipeline), plan.imagining, seed, log)
    save(out, model, writer)
    finish(measure_all(out, world, per_concept=plan.per_concept, per_thing=plan.per_thing), out, log)


def make_pipeline(options: DiffusionOptions, seed: int, log: Stopwatch) -> Any:
    sketches = Sketches(seed, FIND, options.pictures)
    pipeline = build_pipeline(caption_tokenizer(), seed)
    train_coder(pipeline.vae, sketches, options, seed, log)
    sharpen_decoder(pipeline.vae, sketches, options, seed, log)
    train_denoiser(pipeline, sketches, options, seed, log)
    return pipeline


def save(out: Path, model: Any, writer: Writer) -> None:
    """The folder that AutoModelForImageTextToText and AutoProcessor load once `atlas.live.draw.gill_model.register` was
    called."""
    side = {"height": SIZE, "width": SIZE}
    picture = CLIPImageProcessorPil(
        size={"shortest_edge": SIZE}, crop_size=side, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    tokenizer = writer.tokenizer
    model.generation_config = greedy(tokenizer)
    model.save_pretrained(out)
    GillProcessor(picture, tokenizer, visual_tokens=VISUAL, chat_template=CHAT_TEMPLATE).save_pretrained(out)
