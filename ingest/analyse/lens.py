"""What the model would say if its final norm and unembedding read a layer's residual stream: the logit lens
(nostalgebraist 2020), as the entropy of its next token."""

from __future__ import annotations

import math

import numpy as np
import torch

from atlas.live.matmul import calling
from atlas.live.model import LiveModel

TOKENS = 32
"""Positions that are read at once: the logits are as wide as the vocabulary."""


class Lens:
    """A model's final norm and unembedding."""

    def __init__(self, live: LiveModel):
        self._live = live

    @property
    def uniform(self) -> float:
        """The entropy, in nats, where every token is as likely."""
        return math.log(self._live.layout.vocabulary)

    @torch.no_grad()
    def entropies(self, streams: np.ndarray) -> np.ndarray:
        """(tokens,) float64: the entropy of the next token in nats, from (tokens, d_model), in float32."""
        read = []
        for begin in range(0, len(streams), TOKENS):
            part = torch.from_numpy(streams[begin : begin + TOKENS]).to(self._live.device)
            logits = self._live.logits(calling(self._live.layout.norm, part))
            read.append(torch.special.entr(logits.double().softmax(-1)).sum(-1).cpu().numpy())
        return np.concatenate(read)
