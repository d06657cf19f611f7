"""CLIPScore (Hessel et al. 2021): 2.5 max(0, cosine) of picture and answer in a CLIP; 0 to 2.5, seldom above 1.

References are ignored. An empty answer scores 0; an answer that is too long for the model is truncated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from atlas.errors import UsageError
from atlas.live.load.parts import longest
from atlas.live.pixels import rgb
from ingest.evaluate.metric import Judged
from ingest.metrics._common import from_pretrained

NEEDS_IMAGE = True
WEIGHT = 2.5


class ClipScore:
    """See the module. pictures: the image processor. prefix: put before every answer."""

    def __init__(self, model: Any, tokenizer: Any, pictures: Any, prefix: str, batch_size: int):
        self.model, self.tokenizer, self.pictures = model, tokenizer, pictures
        self.prefix, self.batch_size = prefix, batch_size
        self.length = longest(tokenizer, model.config.text_config.max_position_embeddings)

    def score(self, judged: Sequence[Judged]) -> dict[str, np.ndarray]:
        if without_picture := sum(judged_answer.image is None for judged_answer in judged):
            raise UsageError(f"clipscore needs pictures, and {without_picture} of {len(judged)} answers have none")
        values = np.zeros(len(judged))
        with_words = [i for i, judged_answer in enumerate(judged) if judged_answer.answer.strip()]
        for start in range(0, len(with_words), self.batch_size):
            chosen = with_words[start : start + self.batch_size]
            values[chosen] = WEIGHT * self._cosines([judged[i] for i in chosen]).clip(min=0)
        return {"clipscore": values}

    def _cosines(self, judged: Sequence[Judged]) -> np.ndarray:
        import torch

        texts = self.tokenizer(
            [self.prefix + one.answer.strip() for one in judged],
            padding=True,
            truncation=True,
            max_length=self.length,
            return_tensors="pt",
        )
        images = [rgb(one.image) for one in judged if one.image is not None]
        pixels = self.pictures(images, return_tensors="pt").pixel_values
        device = self.model.device
        with torch.inference_mode():
            output = self.model(texts.input_ids.to(device), pixels.to(device), texts.attention_mask.to(device))
        cosines: np.ndarray = (
            (output.image_embeds * output.text_embeds).sum(-1).double().cpu().numpy()
        )  # both of length 1
        return cosines


def build(
    *,
    model: str = "",
    revision: str = "",
    prefix: str = "A photo depicts ",
    batch_size: int = 32,
    device: str = "cpu",
) -> ClipScore:
    """model: a CLIP, HuggingFace id or folder (the paper's is openai/clip-vit-base-patch32). prefix: what the paper
    puts before every answer."""
    import transformers

    from atlas.live.load.checkpoints import find_device

    config = from_pretrained("clipscore", transformers.AutoConfig, model, revision)
    if not isinstance(config, transformers.CLIPConfig):
        raise UsageError(f"clipscore needs a CLIP; '{model}' is a {config.model_type}")
    clip = from_pretrained("clipscore", transformers.CLIPModel, model, revision)
    tokenizer = from_pretrained("clipscore", transformers.AutoTokenizer, model, revision)
    pictures = from_pretrained("clipscore", transformers.AutoImageProcessor, model, revision)
    return ClipScore(clip.eval().to(find_device(device)), tokenizer, pictures, prefix, batch_size)
