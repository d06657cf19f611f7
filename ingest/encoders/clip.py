"""A CLIP (Radford et al. 2021): texts and pictures in one space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from atlas.errors import Unsupported, UsageError
from ingest.encoders._common import identity, in_batches, load, on_device, text_length, tokenized

if TYPE_CHECKING:
    from PIL.Image import Image


class Clip:
    modalities = frozenset({"text", "image"})

    def __init__(self, model: Any, tokenizer: Any, pictures: Any, *, prefix: str, batch_size: int, device: str):
        self.model, self.tokenizer, self.pictures = on_device(model, device), tokenizer, pictures
        self.prefix, self.batch_size = prefix, batch_size
        self.length = text_length(tokenizer, model.config.text_config)
        self.identity = identity(model, tokenizer, pictures, prefix=prefix)
        self.dimension = int(model.config.projection_dim)

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """(texts, dimension) float32 of length 1; what is longer than the model takes (77 tokens) is cut."""
        return in_batches([self.prefix + text for text in texts], self.batch_size, self._texts)

    def _texts(self, texts: Sequence[str]) -> Any:
        tokens = tokenized(self.tokenizer, texts, self.length, self.model.device)
        tokens = {name: tokens[name] for name in ("input_ids", "attention_mask")}
        return self.model.text_projection(self.model.text_model(**tokens).pooler_output)

    def images(self, images: Sequence[Image]) -> np.ndarray:
        """(pictures, dimension) float32 of length 1."""
        return in_batches([image.convert("RGB") for image in images], self.batch_size, self._images)

    def _images(self, images: Sequence[Image]) -> Any:
        pixels = self.pictures(list(images), return_tensors="pt").pixel_values.to(self.model.device)
        return self.model.visual_projection(self.model.vision_model(pixels).pooler_output)

    def sounds(self, sounds: Sequence[tuple[np.ndarray, int]]) -> np.ndarray:
        raise Unsupported("a CLIP knows texts and pictures, no sound")


def build(model: str = "", *, revision: str = "", prefix: str = "", batch_size: int = 32, device: str = "cpu") -> Clip:
    """prefix: what is put before every text, such as "a photo of "."""
    config = load("clip", "AutoConfig", model, revision)
    if config.model_type != "clip":
        raise UsageError(f"the encoder clip wants a CLIP; '{model}' is a {config.model_type}")
    parts = [load("clip", name, model, revision) for name in ("CLIPModel", "AutoTokenizer", "AutoImageProcessor")]
    return Clip(*parts, prefix=prefix, batch_size=batch_size, device=device)
