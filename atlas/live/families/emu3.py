"""Emu3: pictures are tokens of the vocabulary, each row closed by a token for that.

Its image tokenizer works on whole batches, padded to the largest picture, so that a picture's tokens would depend on
its neighbours: here each picture is tokenised alone, in its own size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from atlas.live.families._family import Family


def picture_ids(config: Any) -> list[int]:
    """The ids of picture tokens, sorted."""
    names = config.vocabulary_map
    return sorted(token for name, token in names.items() if name.startswith("<|visual token"))


@torch.no_grad()
def picture_tokens(model: Any, extras: dict[str, Tensor]) -> Tensor:
    """(tokens,) int64 of all pictures of a prompt, in order; every row closed by the token for that."""
    device = next(model.parameters()).device
    tokens = []
    for pixels, size in zip(extras["pixel_values"], extras["image_sizes"], strict=True):
        height, width = size.tolist()
        picture = pixels[None, :, :height, :width].to(device=device, dtype=model.dtype)
        tokens.append(model.model.get_image_tokens(picture, size[None].to(device)))
    return torch.cat(tokens).cpu()


def drawer(live: Any) -> Any:
    """The drawer of an Emu3 model."""
    from atlas.live.draw.picture_tokens import Emu3, TokenDrawer

    return TokenDrawer(Emu3(live))


FAMILY = Family(picture_ids=picture_ids, picture_tokens=picture_tokens, drawer=drawer)
