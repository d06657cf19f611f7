"""Shared parts of encoders: loading a HuggingFace model with its parts, its identity, and batches."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np

from atlas.errors import Unsupported, UsageError
from atlas.live.load.parts import load_part, longest
from atlas.vectors.faiss_files import unit

T = TypeVar("T")


def load(encoder: str, loader: str, model: str, revision: str = "") -> Any:
    """A part of a model, by the class `loader` of `transformers`; see `atlas.live.load.parts.load_part`."""
    import transformers

    needed = f"the encoder {encoder} needs a model: [[encoder={encoder}:ID_OR_FOLDER]]"
    return load_part(getattr(transformers, loader), model, revision, needed=needed, failed=f"the encoder {encoder}")


def load_pair(encoder: str, kind: str, loaders: Sequence[str], model: str, revision: str) -> list[Any]:
    """Parts of a model that has texts and another modality in one space, such as "CLIP".

    Raises:
        UsageError: it is of another kind, or cannot be loaded.
    """
    config = load(encoder, "AutoConfig", model, revision)
    if config.model_type != encoder:
        raise UsageError(f"the encoder {encoder} needs a {kind}; '{model}' is a {config.model_type}")
    return [load(encoder, loader, model, revision) for loader in loaders]


def identity(model: Any, tokenizer: Any, media: Any = None, **parameters: Any) -> str:
    """64 hex digits of the weights, the configuration (tokenizer; settings of pictures or sound) and the parameters."""
    from atlas.live.load.fingerprint import configuration, fingerprint

    settings = configuration(model, SimpleNamespace(tokenizer=tokenizer, image_processor=media))
    parts = [fingerprint(model), settings, sorted(parameters.items())]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def on_device(model: Any, device: str) -> Any:
    """The model on a device, in evaluation mode and without gradients."""
    from atlas.live.load.checkpoints import find_device

    return model.eval().requires_grad_(False).to(find_device(device))


def in_batches(items: Sequence[T], size: int, encode: Callable[[Sequence[T]], Any]) -> np.ndarray:
    """(items, dimension), rows of length 1. encode: a batch of items -> (batch, dimension) tensor."""
    import torch

    if size < 1:
        raise UsageError("batch_size must be at least 1")
    starts = range(0, len(items), size)
    with torch.inference_mode():
        encoded = [encode(items[start : start + size]).float().cpu().numpy() for start in starts]
    return unit(np.concatenate(encoded))


class TextOnly:
    """Base of encoders of texts alone."""

    modalities = frozenset({"text"})

    def images(self, images: Sequence[Any]) -> np.ndarray:
        raise Unsupported("this encoder encodes only texts; use clip: for pictures")

    def sounds(self, sounds: Sequence[tuple[np.ndarray, int]]) -> np.ndarray:
        raise Unsupported("this encoder encodes only texts; use clap: for sound")


class PairedEncoder:
    """The text side of a model with texts and another modality in one space. media: that modality's processor."""

    def __init__(self, model: Any, tokenizer: Any, media: Any, *, prefix: str, batch_size: int, device: str):
        self.model, self.tokenizer, self.media = on_device(model, device), tokenizer, media
        self.prefix, self.batch_size = prefix, batch_size
        self.length = text_length(tokenizer, model.config.text_config)
        self.identity = identity(model, tokenizer, media, prefix=prefix)
        self.dimension = int(model.config.projection_dim)

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """(texts, dimension) float32 of length 1; what is longer than the model takes is cut."""
        return in_batches([self.prefix + text for text in texts], self.batch_size, self._texts)

    def _texts(self, texts: Sequence[str]) -> Any:
        tokens = tokenized(self.tokenizer, texts, self.length, self.model.device)
        tokens = {name: tokens[name] for name in ("input_ids", "attention_mask")}
        return self.model.text_projection(self.model.text_model(**tokens).pooler_output)


POOLINGS = ("mean", "cls")


class SentenceEncoder(TextOnly):
    """A transformer whose last hidden states are pooled over a text's tokens: their mean, or the first one's."""

    def __init__(self, model: Any, tokenizer: Any, *, pooling: str, prefix: str, batch_size: int, device: str):
        if pooling not in POOLINGS:
            raise UsageError(f"no pooling called '{pooling}'; there are: {', '.join(POOLINGS)}")
        self.model, self.tokenizer = on_device(model, device), tokenizer
        self.pooling, self.prefix, self.batch_size = pooling, prefix, batch_size
        self.length = text_length(tokenizer, model.config)
        self.identity = identity(model, tokenizer, pooling=pooling, prefix=prefix)
        self.dimension = int(model.config.hidden_size)

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """(texts, dimension) float32 of length 1; what is longer than the model takes is cut."""
        return in_batches([self.prefix + text for text in texts], self.batch_size, self._pooled)

    def _pooled(self, texts: Sequence[str]) -> Any:
        tokens = tokenized(self.tokenizer, texts, self.length, self.model.device)
        hidden = self.model(**tokens).last_hidden_state
        if self.pooling == "cls":
            return hidden[:, 0]
        mask = tokens["attention_mask"][..., None].to(hidden.dtype)
        return (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)


def text_length(tokenizer: Any, config: Any) -> int:
    """The most tokens that a text may have; see `atlas.live.load.parts.longest`."""
    positions = int(getattr(config, "max_position_embeddings", 512))
    if getattr(config, "model_type", "") in ("roberta", "xlm-roberta", "mpnet", "clap_text_model"):
        positions -= 2  # their positions begin at 2
    return longest(tokenizer, positions)


def tokenized(tokenizer: Any, texts: Sequence[str], length: int, device: Any) -> dict[str, Any]:
    """The texts' padded and truncated tokens as tensors on a device."""
    tokens = tokenizer(list(texts), padding=True, truncation=True, max_length=length, return_tensors="pt")
    return {name: value.to(device) for name, value in tokens.items()}
