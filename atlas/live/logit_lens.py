"""A neuron as words: its write vector through the unembedding (logit lens), in blocks.

The full table of neurons by vocabulary is never built: 352,256 neurons by 32,000 tokens would be 45 GB, a
block of 512 neurons is 64 MB.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from atlas.live.matmul import product
from atlas.live.model import LiveModel
from atlas.live.norms import norm_gain, write_gain


@dataclass(frozen=True, slots=True)
class Decoded:
    """The strongest tokens of some consecutive neurons of one layer.

    tokens, logits: (neurons, k), best first. side: "top" (raised most) or "bottom" (lowered most).
    """

    layer: int
    first: int
    side: str
    tokens: Tensor
    logits: Tensor


@torch.no_grad()
def decode(live: LiveModel, *, norm: bool, top: int = 10, block: int = 512) -> Iterator[Decoded]:
    """Top and bottom tokens of every neuron of the language model, `block` neurons at a time.

    norm: False is the plain product of unembedding and write vector (Pan et al. 2023, section 1.4 of their
    code); True folds in the final norm's gain (and centring, for a LayerNorm). The norm's scale depends on
    the position and is left out, so logits compare within one neuron; the gain of a norm after the FFN is always
    included. Special tokens are left out.
    """
    layout, head = live.layout, live.layout.unembedding()
    if not head.is_cuda or (norm and head.dtype != torch.bfloat16):
        head = head.float()  # once, where `product` would do it for every block
    hidden = torch.tensor(_not_words(live), dtype=torch.long, device=head.device)
    for layer in range(len(layout.layers)):
        write = _through_norms(live, layer, norm).to(head.device)
        for first in range(0, layout.width, block):
            logits = product(write[:, first : first + block].T, head.T)
            for side, lowest in (("top", -torch.inf), ("bottom", torch.inf)):
                logits[:, hidden] = lowest
                values, tokens = logits.topk(min(top, logits.shape[1]), dim=1, largest=side == "top")
                yield Decoded(layer, first, side, tokens.cpu(), values.cpu())


def choices(live: LiveModel, top: int) -> dict[tuple[int, str], Tensor]:
    """(layer, "top" or "bottom") -> (N, top) token ids, best first, through the plain unembedding."""
    parts: dict[tuple[int, str], list[Tensor]] = {}
    for block in decode(live, norm=False, top=top):
        parts.setdefault((block.layer, block.side), []).append(block.tokens)
    return {key: torch.cat(blocks) for key, blocks in parts.items()}


def _through_norms(live: LiveModel, layer: int, norm: bool) -> Tensor:
    """(d_model, neurons): a layer's write vectors times the gain of the norm after its FFN, and of the final norm."""
    layout = live.layout
    write = layout.write_vectors(layer)
    if (gain := write_gain(layout, layer)) is not None:
        write = write.float() * gain.to(write.device)[:, None]
    if norm:
        centred = isinstance(layout.norm, nn.LayerNorm)
        write = write.float() - write.float().mean(0) if centred else write.float()
        write = write * norm_gain(layout.norm, layout.d_model).to(write)[:, None]
    return write


def _not_words(live: LiveModel) -> list[int]:
    """Token ids that are not words: special tokens, media placeholders, rows beyond the tokenizer's end."""
    known = len(live.encoder.tokenizer)
    named = {*live.encoder.tokenizer.all_special_ids, *live.encoder.role_of.media_ids.values()}
    return sorted(i for i in {*named, *range(known, live.layout.vocabulary)} if i < live.layout.vocabulary)
