"""The embedded model that draws: plain classes load it, it knows its world and draws it, and its recipe runs."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor
from zoo_models import carded, run_recipe, small_and_plain

import ingest.zoo
from atlas.live.draw.gill_model import register
from ingest.data.examples import FIND, HELD_OUT, IMAGE, TEXT, Example
from ingest.datasets import scenes
from ingest.datasets._drawings import DRAW_TASKS, Drawing, draw_requests, draw_vocabulary, draw_wordings
from ingest.datasets._world import DRAWN

FOLDER = Path(ingest.zoo.__file__).parent / "tiny-gill"
WORLD = scenes.build()
NAMES = [thing.name for thing in DRAWN]
IMG = "".join(f"[IMG{number}]" for number in range(8))


@pytest.fixture(scope="module")
def loaded() -> tuple[Any, Any]:
    register()
    model = AutoModelForImageTextToText.from_pretrained(FOLDER, local_files_only=True).eval()
    return model, AutoProcessor.from_pretrained(FOLDER, local_files_only=True)


def written(loaded: tuple[Any, Any], prompts: list[str], media: list[str] | None = None) -> Any:
    """What the processor and `generate` alone make of them: the inputs, and the new token ids."""
    model, processor = loaded
    messages = [
        [{"role": "user", "content": [*([{"type": "image"}] if media else []), {"type": "text", "text": prompt}]}]
        for prompt in prompts
    ]
    texts = [processor.apply_chat_template(message, add_generation_prompt=True) for message in messages]
    pictures = [WORLD.image(address) for address in media] if media else None
    inputs = processor(text=texts, images=pictures, padding=True, return_tensors="pt")
    with torch.inference_mode():
        return inputs, model.generate(**inputs)[:, inputs["input_ids"].shape[1] :]


def answers(loaded: tuple[Any, Any], prompts: list[str], media: list[str] | None = None) -> list[str]:
    new = written(loaded, prompts, media)[1]
    return [answer.strip() for answer in loaded[1].batch_decode(new, skip_special_tokens=True)]


def asked(task: str, split: str = HELD_OUT) -> list[str]:
    """One request for each thing, each in another way."""
    every = [list(draw_requests(Drawing(name), task, split)) for name in NAMES]
    return [requests[number % len(requests)] for number, requests in enumerate(every)]


def test_the_folder_is_small_and_holds_no_code() -> None:
    small_and_plain(FOLDER, 15e6)


def test_it_is_gill_with_an_opt_of_relu_neurons(loaded: tuple[Any, Any]) -> None:
    model, processor = loaded
    assert (type(model).__name__, type(processor).__name__) == ("GillForConditionalGeneration", "GillProcessor")
    text = model.config.get_text_config()
    assert (text.model_type, text.activation_function, text.tie_word_embeddings) == ("opt", "relu", False)
    assert (text.num_hidden_layers, text.ffn_dim, text.hidden_size) == (4, 512, 128)
    assert "tiny-gill" in ingest.zoo.names()


def test_all_it_says_and_draws_is_written_by_feed_forward_neurons(loaded: tuple[Any, Any]) -> None:
    """Without its neurons every logit is 0, and whatever is asked for, the same would be drawn."""
    mute = copy.deepcopy(loaded[0])
    for layer in mute.language_model.model.decoder.layers:
        torch.nn.init.zeros_(layer.fc2.weight)
    for media in ([WORLD.image("find/0")], None):
        text = f"<s>user:{'<image>' if media else ''} what does a dog do? assistant:"
        inputs = loaded[1](text=text, images=media, return_tensors="pt")
        with torch.inference_mode():
            assert loaded[0](**inputs).logits.abs().max() > 1
            assert mute(**inputs).logits.abs().max() < 1e-4
    texts = [f"<s>user: draw a {what}. assistant: {IMG}" for what in ("red car", "blue fish", "dog on the snow")]
    ids = loaded[1](text=texts, padding=True, return_tensors="pt")
    said, nothing = (model.imagine(**ids) for model in (loaded[0], mute))
    assert (said[0] - said[1]).abs().max() > 0.5
    torch.testing.assert_close(nothing, nothing[:1].expand_as(nothing), rtol=0, atol=1e-4)


def test_requests_for_drawings_split_and_their_words_are_one_token(loaded: tuple[Any, Any]) -> None:
    tokenizer = loaded[1].tokenizer
    assert all(len(tokenizer.tokenize(f" {word}")) == 1 for word in draw_vocabulary())
    assert len(tokenizer(f" {IMG}", add_special_tokens=False).input_ids) == 8
    for task in DRAW_TASKS:
        find, held_out = (set(draw_wordings(task, split)) for split in (FIND, HELD_OUT))
        assert find and held_out and not find & held_out
    assert next(draw_requests(Drawing("dog", "red", "grass"), "draw", FIND)) == "draw a red dog on the grass."
    assert next(draw_requests(Drawing("dog"), "draw_does", FIND)) == "draw what barks."


@pytest.mark.parametrize(("task", "least"), [("draw", 17), ("draw_does", 16), ("draw_lives", 13)])
def test_it_answers_a_request_with_the_picture_tokens(loaded: tuple[Any, Any], task: str, least: int) -> None:
    told = answers(loaded, asked(task))
    assert sum(answer == IMG for answer in told) >= least, told


@pytest.mark.parametrize(
    ("source", "task", "least"),
    [(TEXT, "does", 17), (TEXT, "has_reverse", 16), (IMAGE, "name", 16), (IMAGE, "has", 14), (IMAGE, "caption", 14)],
)
def test_it_answers_held_out_questions(loaded: tuple[Any, Any], source: str, task: str, least: int) -> None:
    examples: list[Example] = []
    for name in NAMES:
        some = WORLD.examples(source=source, split=HELD_OUT, concepts=[name], tasks=[task], per_concept=8, seed=7)
        examples.append(next(example for example in some if len(example.mentions) == 1))
    media = [address for example in examples for address in example.media]
    told = answers(loaded, [example.prompt for example in examples], media or None)
    right = sum(answer == example.answer for answer, example in zip(told, examples, strict=True))
    assert right >= least, list(zip(told, examples, strict=True))


@pytest.mark.filterwarnings("ignore")  # diffusers' own
def test_what_it_draws_is_recognised(loaded: tuple[Any, Any]) -> None:
    pytest.importorskip("diffusers")
    from atlas.live.draw.diffusion import Painter
    from ingest.zoo.train import seen
    from ingest.zoo.train.judge import Judge

    things = ["dog", "fish", "car", "rocket", "tree", "ball", "clock", "cup"]
    prompts = [f"please tell me: sketch a blue {name} on the sand." for name in things]
    inputs, new = written(loaded, prompts)
    whole = torch.cat([inputs["input_ids"], new[:, :8]], 1)
    mask = torch.cat([inputs["attention_mask"], torch.ones_like(new[:, :8])], 1)
    prompt = loaded[0].imagine(whole, attention_mask=mask)
    pictures = Painter.load(FOLDER).paint(prompt, seeds=range(len(things)), steps=8)
    assert pictures[0].size == (32, 32)
    told = Judge(FOLDER / "judge").names(pictures)
    assert sum(name == thing for name, thing in zip(told, things, strict=True)) >= 6, told
    assert sum(seen.colour(picture) == "blue" for picture in pictures) >= 5
    assert sum(seen.ground(picture) == "sand" for picture in pictures) >= 6


def test_the_card_tells_the_figures_that_were_measured() -> None:
    figures = carded(FOLDER)
    assert figures["text facts"] >= 0.99
    assert figures["picture name"] >= 0.95
    assert figures["picture caption"] >= 0.85
    assert figures["draw answered"] >= 0.97
    assert sum(figures[f"draw recognised: {name}"] >= 0.8 for name in NAMES) >= 8
    assert figures["judge on large scenes"] >= 0.99


@pytest.mark.filterwarnings("ignore")
def test_the_recipe_runs(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    run_recipe("tiny-gill", tmp_path / "model")
    assert AutoModelForImageTextToText.from_pretrained(tmp_path / "model", local_files_only=True)
