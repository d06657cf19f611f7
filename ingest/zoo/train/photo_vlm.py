"""photo-vlm's projector, trained on freely licensed photographs; the rest of the model is fetched and frozen.

`python -m ingest.zoo.train photo-vlm --photographs DIR --out DIR`: DIR is a COCO folder (annotations/captions.json,
images/). The names of ImageNet's classes are read from a wheel of open-clip-torch, of which nothing is run.
"""

from __future__ import annotations

import ast
import json
import tempfile
from argparse import ArgumentParser, Namespace
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import EfficientNetModel, set_seed

from atlas.live.bake.torch_file import read_torch
from ingest.datasets.photos import FOLDER
from ingest.zoo.fetched import _wheels
from ingest.zoo.fetched._known import Parts, Wheel
from ingest.zoo.fetched.photo_vlm import EYES, WEIGHTS
from ingest.zoo.fetched.smollm2_135m import LANGUAGE, language_of
from ingest.zoo.photo_vlm import assemble, build_tokenizer, eyes_config, eyes_state
from ingest.zoo.train._common import THREADS, Stopwatch, finish
from ingest.zoo.train.photo_corpus import CorpusOptions, Eyes, build_corpus
from ingest.zoo.train.photo_measure import captions, figures, read
from ingest.zoo.train.photo_projector import CaptionLoss, ProjectorOptions, initial, train

CLASS_FILE = "zero_shot_metadata.py"
CLASS_NAMES = Wheel(
    package="open-clip-torch",
    version="3.3.0",
    sha256="c549ad5ed6bfc119cc11105033c0a2b9d7a2a4afeb40a58a09aab3da1a0043ce",
    megabytes=2,
    licence="MIT",
    about="the names of ImageNet's classes, as OpenAI edited them for CLIP",
    members={f"open_clip/{CLASS_FILE}": CLASS_FILE},
)


def add_arguments(parser: ArgumentParser) -> None:
    """What this recipe needs besides."""
    parser.add_argument("--photographs", type=Path, required=True, help="a COCO folder with captions")


def make(out: Path, *, seed: int, smoke: bool, chosen: Namespace) -> None:
    """Train the projector, write it and its figures into `out`."""
    corpus_options, options = CorpusOptions(), ProjectorOptions()
    if smoke:
        corpus_options = replace(corpus_options, views=2, crops=2, most=2)
        options = replace(options, steps=2, batch=2, warmup=1, judged=1)
    torch.set_num_threads(THREADS)
    log = Stopwatch()
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        for wheel in (LANGUAGE, EYES, CLASS_NAMES):
            _wheels.fetch(wheel, place)
        language, tokenizer = language_of(Parts(place, None))
        published = read_torch(place / WEIGHTS)
        names = class_names((place / CLASS_FILE).read_text(encoding="utf-8"))
    language.requires_grad_(False).set_attn_implementation("eager")  # with a mask of our own, the faster one
    tower = EfficientNetModel(eyes_config())
    tower.load_state_dict(eyes_state(published))
    corpus = build_corpus(chosen.photographs, Eyes(tower, published, names), corpus_options, seed, log)
    set_seed(seed)
    image_tokenizer = build_tokenizer(tokenizer)
    projector = initial(corpus, image_tokenizer, language.get_input_embeddings().weight.float(), options)
    loss = CaptionLoss(language, image_tokenizer, corpus, options.rare)
    judged = train(projector, loss, corpus, options, seed, log)
    plain = {name: value.half().contiguous() for name, value in projector.plain().items()}
    out.mkdir(parents=True, exist_ok=True)
    save_file(plain, out / "projector.safetensors")
    settings = {"corpus": asdict(corpus_options), "projector": asdict(options), "seed": seed, "judged": judged}
    (out / "training.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    _measure(out, assemble(language, tokenizer, published, plain), log, smoke)


def class_names(source: str) -> tuple[str, ...]:
    """The names of the thousand classes out of the module's text, which is parsed and not run.

    Raises:
        ValueError: it has no such list.
    """
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "IMAGENET_CLASSNAMES":
            names = tuple(ast.literal_eval(node.value))
            if len(names) == 1000:
                return names
    raise ValueError("the module has no list IMAGENET_CLASSNAMES of a thousand names")


def _measure(out: Path, parts: tuple[Any, Any], log: Stopwatch, smoke: bool) -> None:
    dataset, examples = read(str(FOLDER))
    answers = captions(*parts, dataset, examples[: 4 if smoke else None])
    examples = examples[: len(answers)]
    rates = figures(dataset, examples, answers)
    finish(rates, out, log)
