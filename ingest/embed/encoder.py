"""Encoders: texts, pictures and recordings as vectors of one space, whose products are similarities."""

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

    modalities: what it encodes, of text, image and audio. identity: 64 hex digits of all that decides its numbers:
    weights, configuration and parameters, and not where its files lie.
    """

    modalities: frozenset[str]
    identity: str
    dimension: int

    def texts(self, texts: Sequence[str]) -> np.ndarray: ...

    def images(self, images: Sequence[Image]) -> np.ndarray: ...

    def sounds(self, sounds: Sequence[tuple[np.ndarray, int]]) -> np.ndarray:
        """sounds: (samples,) float32 and samples a second, each."""
        ...


@dataclass(frozen=True, slots=True)
class OpenedEncoder:
    """An encoder, its file's name, and its parameters but those that change no number."""

    name: str
    encoder: Encoder
    parameters: Mapping[str, Any]

    def described(self) -> dict[str, Any]:
        """What a job says of it."""
        told = {"name": self.name, "identity": self.encoder.identity, "parameters": dict(self.parameters)}
        plugins = registry.origins({ingest.encoders: [self.name]})
        return told | ({"plugins": plugins} if plugins else {})


RUNNING = ("device", "batch_size", "revision")
"""Parameters that change no number beyond rounding, or say where the content is found that `identity` is of."""


def open_encoder(spec: str, options: Mapping[str, Any] | None = None) -> OpenedEncoder:
    """An encoder by NAME or NAME:ID_OR_FOLDER, with its options.

    Raises:
        UsageError: no such encoder, option or model; Unsupported: it needs a package that is not installed.
    """
    name, _, model = spec.partition(":")
    module = registry.load(ingest.encoders, name)
    parameters = registry.resolve(name, module.build, dict(options or {}))
    kept = {key: value for key, value in parameters.items() if key not in RUNNING}
    return OpenedEncoder(name, module.build(model, **parameters), kept)


def require(opened: OpenedEncoder, modality: str) -> Encoder:
    """The encoder, which must encode this.

    Raises:
        Unsupported: it does not.
    """
    if modality not in opened.encoder.modalities:
        does = " and ".join(sorted(opened.encoder.modalities))
        raise Unsupported(
            f"the encoder {opened.name} encodes {does}, not {modality}; use clip: for pictures, clap: for sound"
        )
    return opened.encoder


_TOGETHER = 1024
"""Texts between two words of progress: whole batches of any usual size."""


def encode_texts(
    encoder: Encoder, texts: Sequence[str], progress: Callable[[int, int], None] = lambda done, total: None
) -> np.ndarray:
    """(texts, dimension) float32 of length 1; zeros for an empty text. Equal texts are encoded once.

    progress: is told how many of the different texts are encoded.
    """
    different = sorted({text for text in texts if text.strip()}, key=lambda text: (len(text), text))
    out = np.zeros((len(texts), encoder.dimension), np.float32)
    if not different:
        return out
    parts = []
    for start in range(0, len(different), _TOGETHER):
        parts.append(encoder.texts(different[start : start + _TOGETHER]))
        progress(min(start + _TOGETHER, len(different)), len(different))
    found = unit(np.concatenate(parts))
    place = {text: i for i, text in enumerate(different)}
    filled = [i for i, text in enumerate(texts) if text in place]
    out[filled] = found[[place[texts[i]] for i in filled]]
    return out


def digest_of(texts: Sequence[str]) -> str:
    """64 hex digits of texts in their order."""
    return hashlib.sha256(json.dumps(list(texts), ensure_ascii=True).encode()).hexdigest()
