"""What encoders share: a HuggingFace model with its parts, its identity, and batches."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np

from atlas.errors import Unsupported, UsageError
from atlas.indexes import unit

T = TypeVar("T")


def load(encoder: str, loader: str, model: str, revision: str = "") -> Any:
    """`transformers.<loader>.from_pretrained`, quiet.

    Raises:
        UsageError: no model is given, or it cannot be loaded.
    """
    import transformers
    from transformers.utils import logging

    if not model:
        raise UsageError(f"the encoder {encoder} needs a model: --encoder {encoder}:ID_OR_FOLDER")
    before = logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # weights that are left out on purpose are not worth a table
    try:
        return getattr(transformers, loader).from_pretrained(model, revision=revision or None)
    except (OSError, ValueError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UsageError(f"the encoder {encoder} cannot load the model '{model}': {first}") from error
    finally:
        logging.set_verbosity(before)


def identity(model: Any, tokenizer: Any, media: Any = None, **parameters: Any) -> str:
    """64 hex digits of the weights, the configuration (tokenizer; settings of pictures or sound) and the parameters."""
    from atlas.live.fingerprint import configuration, fingerprint

    settings = configuration(model, SimpleNamespace(tokenizer=tokenizer, image_processor=media))
    parts = [fingerprint(model), settings, sorted(parameters.items())]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def on_device(model: Any, device: str) -> Any:
    from atlas.live.model import find_device

    return model.eval().requires_grad_(False).to(find_device(device))


def in_batches(items: Sequence[T], size: int, encode: Callable[[Sequence[T]], Any]) -> np.ndarray:
    """Rows of length 1 for all items. encode: some items -> (items, dimension) tensor."""
    import torch

    with torch.inference_mode():
        found = [encode(some).float().cpu().numpy() for some in _batches(items, size)]
    return unit(np.concatenate(found))


def _batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    if size < 1:
        raise UsageError("batch_size must be at least 1")
    for start in range(0, len(items), size):
        yield items[start : start + size]


class TextOnly:
    """The part of an encoder that knows texts alone."""

    modalities = frozenset({"text"})

    def images(self, images: Sequence[Any]) -> np.ndarray:
        raise Unsupported("this encoder knows texts only")

    def sounds(self, sounds: Sequence[tuple[np.ndarray, int]]) -> np.ndarray:
        raise Unsupported("this encoder knows texts only")


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
    """How many tokens a text may have: the tokenizer's limit, which many leave at 10^30, or the model's."""
    positions = int(getattr(config, "max_position_embeddings", 512))
    if getattr(config, "model_type", "") in ("roberta", "xlm-roberta", "mpnet", "clap_text_model"):
        positions -= 2  # theirs begin at 2
    return int(min(tokenizer.model_max_length, positions))


def tokenized(tokenizer: Any, texts: Sequence[str], length: int, device: Any) -> dict[str, Any]:
    found = tokenizer(list(texts), padding=True, truncation=True, max_length=length, return_tensors="pt")
    return {name: value.to(device) for name, value in found.items()}
