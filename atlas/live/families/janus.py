"""Janus: pictures that it draws are tokens of a vocabulary of their own, here with ids after those of the words."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from atlas.live.families._family import Family


def picture_ids(config: Any) -> range:
    """The ids of picture tokens, which follow those of the words."""
    first = config.get_text_config(decoder=True).vocab_size
    return range(first, first + config.vq_config.num_embeddings)


def embed(model: Any, ids: Tensor) -> Tensor:
    """(batch, position, d_model) embeddings of words and picture tokens."""
    from atlas.live.draw.picture_tokens import embed_tokens

    return embed_tokens(model, ids, picture_ids(model.config).start)


def drawer(live: Any) -> Any:
    """The drawer of a Janus model."""
    from atlas.live.draw.picture_tokens import Janus, TokenDrawer

    return TokenDrawer(Janus(live))


FAMILY = Family(picture_ids=picture_ids, embed=embed, drawer=drawer)
