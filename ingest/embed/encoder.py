"""Encoders: texts, pictures and recordings as vectors of one space; inner products are similarities."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

import ingest.encoders
from atlas import registry
from atlas.errors import Unsupported
from atlas.vectors.faiss_files import unit

if TYPE_CHECKING:
    from PIL.Image import Image

TEXT, IMAGE, AUDIO = "text", "image", "audio"

DEFAULT = "minilm"


class Encoder(Protocol):
    """An encoder whose vectors are float32, (inputs, dimension), of length 1.

    modalities: what it encodes, of text, image and audio. identity: 64 hex digits of everything that determines its
    numbers (weights, configuration and parameters), independent of where its files are.
    """

    modalities: frozenset[str]
    identity: str
    dimension: int

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """(texts, dimension) float32 of length 1."""
        ...

    def images(self, images: Sequence[Image]) -> np.ndarray:
        """(images, dimension) float32 of length 1."""
        ...

    def sounds(self, sounds: Sequence[tuple[np.ndarray, int]]) -> np.ndarray:
        """(sounds, dimension) float32 of length 1. sounds: (samples,) float32 and samples a second, each."""
        ...


@dataclass(frozen=True, slots=True)
class OpenedEncoder:
    """An encoder, its file's name, and its parameters without those that change no number."""

    name: str
    encoder: Encoder
    parameters: Mapping[str, Any]

    def described(self) -> dict[str, Any]:
        """The encoder as a job records it."""
        description = {"name": self.name, "identity": self.encoder.identity, "parameters": dict(self.parameters)}
        plugins = registry.origins({ingest.encoders: [self.name]})
        return description | ({"plugins": plugins} if plugins else {})


RUNNING = ("device", "batch_size", "revision")
"""Parameters that change no number beyond rounding, or that say where to find the content that `identity` hashes."""


def open_encoder(spec: str, options: Mapping[str, Any] | None = None) -> OpenedEncoder:
    """An encoder by NAME or NAME:ID_OR_FOLDER, with its options.

    Raises:
        UsageError: no such encoder, option or model.
        Unsupported: it needs a package that is not installed.
    """
    name, _, model = spec.partition(":")
    module = registry.load(ingest.encoders, name)
    parameters = registry.resolve(name, module.build, dict(options or {}))
    content_parameters = {key: value for key, value in parameters.items() if key not in RUNNING}
    return OpenedEncoder(name, module.build(model, **parameters), content_parameters)


def require(opened: OpenedEncoder, modality: str) -> Encoder:
    """The encoder, checked to encode this modality.

    Raises:
        Unsupported: it does not.
    """
    if modality not in opened.encoder.modalities:
        encodes = " and ".join(sorted(opened.encoder.modalities))
        raise Unsupported(
            f"the encoder {opened.name} encodes {encodes}, not {modality}; use clip: for pictures, clap: for sound"
        )
    return opened.encoder


_TOGETHER = 1024
"""Texts between two calls of `progress`: a multiple of any usual batch size."""


def encode_texts(
    encoder: Encoder, texts: Sequence[str], progress: Callable[[int, int], None] = lambda done, total: None
) -> np.ndarray:
    """(texts, dimension) float32 of length 1; zeros for an empty text. Equal texts are encoded once.

    progress: called with how many of the distinct texts are encoded.
    """
    different = sorted({text for text in texts if text.strip()}, key=lambda text: (len(text), text))
    encoded = np.zeros((len(texts), encoder.dimension), np.float32)
    if not different:
        return encoded
    parts = []
    for start in range(0, len(different), _TOGETHER):
        parts.append(encoder.texts(different[start : start + _TOGETHER]))
        progress(min(start + _TOGETHER, len(different)), len(different))
    unit_vectors = unit(np.concatenate(parts))
    index_of = {text: i for i, text in enumerate(different)}
    filled = [i for i, text in enumerate(texts) if text in index_of]
    encoded[filled] = unit_vectors[[index_of[texts[i]] for i in filled]]
    return encoded


def digest_of(texts: Sequence[str]) -> str:
    """64 hex digits of texts in this order."""
    return hashlib.sha256(json.dumps(list(texts), ensure_ascii=True).encode()).hexdigest()
