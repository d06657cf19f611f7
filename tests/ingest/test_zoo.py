"""The embedded model: plain classes load it, it knows its world, and its recipe runs."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor
from zoo_models import carded, generate, held_out, reads_any_text, run_recipe, small_and_plain

import ingest.zoo
from ingest.data.examples import IMAGE, TEXT
from ingest.datasets import scenes
from ingest.datasets._world import DRAWN, THINGS

FOLDER = Path(ingest.zoo.__file__).parent / "tiny-llava"
WORLD = scenes.build()
NAMES = [thing.name for thing in DRAWN]


@pytest.fixture(scope="module")
def loaded() -> tuple[Any, Any]:
    model = AutoModelForImageTextToText.from_pretrained(FOLDER, local_files_only=True).eval()
    return model, AutoProcessor.from_pretrained(FOLDER, local_files_only=True)


def test_the_folder_is_small_and_holds_no_code() -> None:
    small_and_plain(FOLDER)


def test_it_is_llava_with_narrow_attention_and_a_relu_gate(loaded: tuple[Any, Any]) -> None:
    model, processor = loaded
    assert type(model).__name__ == "LlavaForConditionalGeneration"
    assert type(processor).__name__ == "LlavaProcessor"
    text = model.config.get_text_config()
    assert (text.num_hidden_layers, text.intermediate_size, text.hidden_size) == (4, 512, 128)
    assert (text.num_attention_heads, text.head_dim, text.hidden_act) == (4, 16, "relu")


def test_all_it_says_is_written_by_feed_forward_neurons(loaded: tuple[Any, Any]) -> None:
    """Without its neurons the model has no logit but 0, with a picture and without."""
    mute = copy.deepcopy(loaded[0])
    for layer in mute.model.language_model.layers:
        torch.nn.init.zeros_(layer.mlp.down_proj.weight)
    for media in ([WORLD.image("find/0")], None):
        text = f"<s>user:{'<image>' if media else ''} what does a dog do? assistant:"
        inputs = loaded[1](text=text, images=media, return_tensors="pt")
        with torch.inference_mode():
            assert loaded[0](**inputs).logits.any()
            assert not mute(**inputs).logits.any()


def test_words_of_the_world_are_one_token_and_any_text_survives(loaded: tuple[Any, Any]) -> None:
    tokenizer = loaded[1].tokenizer
    reads_any_text(tokenizer)
    for thing in THINGS:
        for word in (thing.does, thing.lives, thing.has, thing.kind, *thing.signs):
            assert len(tokenizer.tokenize(f" {word}")) == 1


@pytest.mark.parametrize(
    ("source", "task", "least"),
    [
        (TEXT, "does", 17),
        (TEXT, "has_reverse", 17),
        (IMAGE, "name", 17),
        (IMAGE, "lives", 16),
        (IMAGE, "has", 15),
        (IMAGE, "caption", 13),
    ],
)
def test_it_answers_held_out_questions(loaded: tuple[Any, Any], source: str, task: str, least: int) -> None:
    examples = held_out(WORLD, source, task, NAMES)
    told = generate(loaded, WORLD, examples)
    right = sum(answer == example.answer for answer, example in zip(told, examples, strict=True))
    assert right >= least * len(examples) / len(NAMES), list(zip(told, examples, strict=True))


def test_the_card_tells_the_figures_that_were_measured() -> None:
    figures = carded(FOLDER)
    assert figures["caption token accuracy"] >= 0.97
    assert figures["picture name"] >= 0.97
    assert figures["text facts"] >= 0.99
    assert figures["picture facts"] >= 0.95
    assert figures["picture has"] >= 0.90


def test_the_recipe_runs(tmp_path: Path) -> None:
    run_recipe("tiny-llava", tmp_path / "model")
    assert AutoModelForImageTextToText.from_pretrained(tmp_path / "model", local_files_only=True)
