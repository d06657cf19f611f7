"""Pictures to learn drawing from: one thing, large, 32 pixels wide; and the short captions that ask for it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from ingest.datasets import _scene
from ingest.datasets._drawings import Drawing
from ingest.datasets._world import BACKGROUNDS, COLOURS, DRAWN
from ingest.zoo.train.tokens import BOS, EOS, PAD

SIDE = 32  # pixels of a drawing, both ways
LARGE, ORDINARY = (42, 60), (28, 46)  # sizes of the thing before the picture is halved
WORDS = 8  # tokens of a caption with its beginning and its end, and queries of the mapper
UNKNOWN = "<unk>"


def sketch(seed: int, split: str, number: int, sizes: tuple[int, int] = LARGE) -> _scene.Scene:
    """A scene of one thing, by turns every drawn one."""
    turn, thing = divmod(number, len(DRAWN))
    # Of every four rounds of scenes, the first two show one thing.
    scene = _scene.compose(seed, split, (turn // 2 * 4 + turn % 2) * len(DRAWN) + thing)
    rng = random.Random(f"sketch {seed}/{split}/{number}")
    size = rng.randint(*sizes)
    left, top = (rng.randint(0, _scene.SIZE - size) for _ in range(2))
    return replace(scene, things=(replace(scene.things[0], size=size, left=left, top=top),))


def small(picture: Image.Image) -> np.ndarray:
    """(SIDE, SIDE, 3) uint8."""
    return np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BOX))


def unit(pixels: np.ndarray) -> Tensor:
    """(pictures, height, width, 3) uint8 to (pictures, 3, height, width) from -1 to 1."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


class Sketches:
    """The first `count` sketches of a split, drawn once. pixels: (count, SIDE, SIDE, 3) uint8."""

    def __init__(self, seed: int, split: str, count: int, sizes: tuple[int, int] = LARGE) -> None:
        scenes = [sketch(seed, split, number, sizes) for number in range(count)]
        self.pixels = np.stack([small(_scene.render(scene)) for scene in scenes])
        self.drawings = [Drawing(scene.things[0].name, scene.things[0].colour, scene.background) for scene in scenes]

    def __len__(self) -> int:
        return len(self.drawings)


def caption_tokenizer() -> PreTrainedTokenizerFast:
    """A word a token, for the captions of single things; WORDS tokens at most."""
    words = ["a", "an", "on", "the", *COLOURS, *BACKGROUNDS, *(thing.name for thing in DRAWN)]
    vocab = {word: number for number, word in enumerate([PAD, BOS, EOS, UNKNOWN, *words])}
    tokenizer = Tokenizer(WordLevel(vocab, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [(BOS, vocab[BOS]), (EOS, vocab[EOS])]
    tokenizer.post_processor = processors.TemplateProcessing(f"{BOS} $A {EOS}", special_tokens=ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNKNOWN,
        model_max_length=WORDS,
        clean_up_tokenization_spaces=False,
    )


def caption_ids(tokenizer: PreTrainedTokenizerFast, captions: Sequence[str]) -> Tensor:
    """(captions, WORDS) token ids, as the diffusion pipeline makes them."""
    ids: Tensor = tokenizer(
        list(captions), padding="max_length", max_length=WORDS, truncation=True, return_tensors="pt"
    ).input_ids
    return ids
