"""What counts as the same model beside its weights: the settings of everything that reads a medium."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import families
import pytest

from atlas.live.load.fingerprint import configuration, stable_settings
from atlas.live.load.processors import load_processor


class Videos:
    """A stand-in for the video processors that need torchvision."""

    def __init__(self, fps: float):
        self.fps = fps

    def to_dict(self) -> dict[str, Any]:
        return {"fps": self.fps, "video_processor_type": "Videos", "processor_class": "Qwen2VLProcessor"}


@pytest.fixture(scope="module")
def hearing() -> tuple[Any, Any]:
    return families.build("Qwen2-Audio")


@pytest.fixture
def seeing() -> tuple[Any, Any]:
    return families.build("Qwen2-VL")


def test_another_reader_of_sound_is_another_model(hearing: tuple[Any, Any], tmp_path: Path) -> None:
    import transformers as t

    model, processor = hearing
    plain = configuration(model, processor)
    processor.save_pretrained(tmp_path)
    model.config.save_pretrained(tmp_path)
    assert configuration(model, load_processor(tmp_path, None, model.config)) == plain
    own = processor.feature_extractor
    try:
        processor.feature_extractor = t.WhisperFeatureExtractor(feature_size=16, chunk_length=1)
        assert configuration(model, processor) == plain, "one with the same settings is the same"
        processor.feature_extractor = t.WhisperFeatureExtractor(feature_size=16, chunk_length=1, hop_length=200)
        assert configuration(model, processor) != plain
    finally:
        processor.feature_extractor = own


def test_another_reader_of_videos_is_another_model(seeing: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = seeing
    found = [configuration(model, processor)]
    for reader in (Videos(1.0), Videos(2.0), None):
        monkeypatch.setattr(type(processor), "video_processor", reader)
        found.append(configuration(model, processor))
    assert len(set(found)) == 4
    monkeypatch.setattr(type(processor), "video_processor", Videos(1.0))
    assert configuration(model, processor) == found[1]


@pytest.mark.parametrize("name", ["LLaVA", "Llama", "LLaVA-OneVision"])
def test_models_that_neither_hear_nor_see_videos_keep_their_hash(name: str) -> None:
    """That of the five parts which counted from the first on: stored runs are found again."""
    model, processor = families.build(name)
    tokenizer = getattr(processor, "tokenizer", processor)
    pictures = getattr(processor, "image_processor", None)
    parts = [
        stable_settings(model.config.to_dict()),
        stable_settings(model.generation_config.to_dict()),
        tokenizer.backend_tokenizer.to_str(),
        processor.chat_template,
        None if pictures is None else stable_settings(pictures.to_dict()),
    ]
    text = json.dumps(parts, sort_keys=True, default=str)
    assert configuration(model, processor) == hashlib.sha256(text.encode()).hexdigest()
