"""The embedded model that hears: plain classes load it, it knows its world by sound and in text, its recipe runs."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from transformers import AutoModelForMultimodalLM, AutoProcessor, Qwen2AudioForConditionalGeneration
from zoo_models import carded, generate, held_out, reads_any_text, run_recipe, small_and_plain

import ingest.zoo
from ingest.data.examples import AUDIO, TEXT
from ingest.datasets import scenes
from ingest.datasets._sound_words import NOISES
from ingest.datasets._world import SLOTS

FOLDER = Path(ingest.zoo.__file__).parent / "tiny-audio"
WORLD = scenes.build()
NAMES = list(WORLD.sounding)


@pytest.fixture(scope="module")
def loaded() -> tuple[Any, Any]:
    model = AutoModelForMultimodalLM.from_pretrained(FOLDER, local_files_only=True).eval()
    return model, AutoProcessor.from_pretrained(FOLDER, local_files_only=True)


def test_the_folder_is_small_and_holds_no_code() -> None:
    small_and_plain(FOLDER)


def test_it_is_qwen2_audio_with_narrow_attention_and_a_relu_gate(loaded: tuple[Any, Any]) -> None:
    model, processor = loaded
    assert type(model) is Qwen2AudioForConditionalGeneration
    assert type(processor).__name__ == "Qwen2AudioProcessor"
    text = model.config.get_text_config()
    assert (text.num_hidden_layers, text.intermediate_size, text.hidden_size) == (4, 512, 128)
    assert (text.num_attention_heads, text.head_dim, text.hidden_act) == (4, 16, "relu")
    assert model.model.language_model.layers[0].self_attn.q_proj.out_features == 64


def test_a_recording_is_sixteen_tokens_as_the_template_writes_it(loaded: tuple[Any, Any]) -> None:
    model, processor = loaded
    content = [{"type": "audio"}, {"type": "text", "text": "What is this?"}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    assert text == "<s>user:<|audio_bos|><|AUDIO|><|audio_eos|> What is this? assistant:"
    samples, rate = WORLD.audio("sound/find/0")
    inputs = processor(text=text, audio=samples, sampling_rate=rate, return_tensors="pt")
    assert int((inputs["input_ids"] == model.config.audio_token_id).sum()) == SLOTS
    assert inputs["input_features"].shape == (1, 64, 4 * SLOTS)


def test_all_it_says_is_written_by_feed_forward_neurons(loaded: tuple[Any, Any]) -> None:
    """Without its neurons the model has no logit but 0, with a recording and without."""
    mute = copy.deepcopy(loaded[0])
    for layer in mute.model.language_model.layers:
        torch.nn.init.zeros_(layer.mlp.down_proj.weight)
    samples, rate = WORLD.audio("sound/find/0")
    heard = {"audio": [samples], "sampling_rate": rate}
    for slot, media in (("<|audio_bos|><|AUDIO|><|audio_eos|>", heard), ("", {})):
        inputs = loaded[1](text=f"<s>user:{slot} what does a dog do? assistant:", return_tensors="pt", **media)
        with torch.inference_mode():
            assert loaded[0](**inputs).logits.any()
            assert not mute(**inputs).logits.any()


def test_words_of_the_world_are_one_token_and_any_text_survives(loaded: tuple[Any, Any]) -> None:
    tokenizer = loaded[1].tokenizer
    reads_any_text(tokenizer)
    for word in (*NOISES, "then", "and", "over", "hear", "sound", "recording"):
        assert len(tokenizer.tokenize(f" {word}")) == 1


@pytest.mark.parametrize(
    ("source", "task", "least"),
    [
        (TEXT, "does", 17),
        (TEXT, "has_reverse", 17),
        (AUDIO, "name", 17),
        (AUDIO, "lives", 16),
        (AUDIO, "has", 15),
        (AUDIO, "caption", 13),
    ],
)
def test_it_answers_held_out_questions(loaded: tuple[Any, Any], source: str, task: str, least: int) -> None:
    examples = held_out(WORLD, source, task, NAMES)
    assert len(examples) == len(NAMES) == 18
    told = generate(loaded, WORLD, examples)
    right = sum(answer == example.answer for answer, example in zip(told, examples, strict=True))
    assert right >= least, list(zip(told, examples, strict=True))


def test_the_card_tells_the_figures_that_were_measured() -> None:
    figures = carded(FOLDER)
    assert figures["text facts"] >= 0.99
    assert figures["sound name"] >= 0.95
    assert figures["sound facts"] >= 0.93
    assert figures["sound has"] >= 0.88


def test_the_recipe_runs(tmp_path: Path) -> None:
    run_recipe("tiny-audio", tmp_path / "model")
    assert AutoModelForMultimodalLM.from_pretrained(tmp_path / "model", local_files_only=True)
