"""The positions of the running pass: their roles, their places in the row, and whether they belong to the prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from atlas.edits.positions import Positions, as_slice
from atlas.errors import Unsupported
from atlas.live.encode import TokenRoles
from atlas.live.layer_call import cache_name
from atlas.token_roles import ROLES

_starts: ContextVar[tuple[int, ...] | None] = ContextVar("starts", default=None)


@contextmanager
def answers_from(starts: Sequence[int]) -> Iterator[None]:
    """Set where each row's answer begins in the teacher-forced passes of the block; otherwise all of a pass without a
    cache counts as prompt."""
    token = _starts.set(tuple(starts))
    try:
        yield
    finally:
        _starts.reset(token)


class PassPositions:
    """Watches a model's passes while an edit needs to know where it is.

    roles: None where the tokens' roles are not known. numbers: (batch, position) int64, the place of each position of
    the running pass in its row, without padding; prompt: (batch, position) bool; lengths: (batch,), the prompt's.
    All are None while no pass runs, so that a layer called by itself is refused.
    """

    def __init__(self, roles: TokenRoles):
        self._role_of = roles
        self.leave()

    def leave(self) -> None:
        """The decoder has finished."""
        self.roles: Tensor | None = None
        self.numbers: Tensor | None = None
        self.prompt: Tensor | None = None
        self.lengths: Tensor | None = None
        self._masks: dict[Positions, Tensor] = {}
        self._in_parts = self._uncached = self._waits = False

    def look(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """See the arguments of a pass of the whole model (see `atlas.live.hooks.watching`)."""
        self._read(args, kwargs)
        self._waits = True

    def look_inside(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """See the arguments of its decoder, which have no token ids, but are all there is where a model like BLIP-2
        generates with its language model alone."""
        if not (self._waits and self.prompt is not None and _position_shaped(args, kwargs).shape == self.prompt.shape):
            self._read(args, kwargs)
        self._waits = False

    def _read(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.leave()
        ids = _ids(args, kwargs)
        shaped = _position_shaped(args, kwargs)
        length = shaped.shape[1]
        cache = kwargs.get(cache_name(kwargs))
        cached = int(cache.get_seq_length()) if cache is not None else 0
        mask = _mask(kwargs.get("attention_mask"), shaped, cached)
        real = mask[:, cached : cached + length] != 0
        self.numbers = ((mask != 0).cumsum(1) - 1)[:, cached : cached + length]
        self.roles = None if ids is None else self._role_of(ids, real)
        starts = _starts.get()
        self._in_parts = cached > 0 and length > 1
        self._uncached = starts is None and kwargs.get("use_cache") is False
        if cached:
            self.prompt = torch.zeros_like(real)
        elif starts is None:
            self.prompt = real
        else:
            before = torch.arange(length, device=real.device) < torch.tensor(starts, device=real.device)[:, None]
            self.prompt = real & before
        self.lengths = self.prompt.sum(1)

    def at(self, where: Positions, values: Tensor) -> Tensor:
        """`mask` for values of neurons (..., neurons): a bool for each of the leading dimensions, on their device."""
        mask = self.mask(where)
        if mask.numel() != values[..., 0].numel():
            raise Unsupported("this model's FFN does not see every position once, so [[where]] cannot be applied")
        return mask.to(values.device).reshape(values.shape[:-1])

    def mask(self, where: Positions) -> Tensor:
        """(batch, position) bool: the positions of the running pass that an edit changes.

        Raises:
            Unsupported: the edit needs roles, and they cannot be known.
        """
        if where not in self._masks:
            self._masks[where] = self._make(where)
        return self._masks[where]

    def _make(self, where: Positions) -> Tensor:
        if self.prompt is None or self.numbers is None:
            raise Unsupported(
                "an edit with [[where]] needs passes of the whole model; call the model, not a part of it"
            )
        mask = torch.ones_like(self.prompt)
        if where.roles:
            mask &= self._of_roles(where.roles)
        if (where.phase is not None or where.spans) and self._in_parts:
            raise Unsupported(
                "several tokens after a cache may be the rest of a prompt or guesses at an answer; "
                "for an edit of a phase or of positions give the prompt in one pass"
            )
        if where.phase is not None and self._uncached:
            raise Unsupported(
                "without the KV cache the answer looks like a part of the prompt; leave out use_cache=False"
            )
        if where.phase is not None:
            mask &= self.prompt == (where.phase == "prefill")
        if where.spans:
            mask &= self.prompt & self._within(where.spans)
        return mask

    def _of_roles(self, names: Sequence[str]) -> Tensor:
        if self.roles is None:
            raise Unsupported("an edit of token roles needs input_ids; this pass was given embeddings")
        if self._role_of.special is None and ("text" in names) != ("special" in names):
            raise Unsupported(
                "telling text from special tokens needs the tokenizer; give it with .on(model, processor=...)"
            )
        indices = torch.tensor([ROLES.index(name) for name in names], device=self.roles.device)
        return torch.isin(self.roles, indices)

    def _within(self, spans: Sequence[str]) -> Tensor:
        assert self.numbers is not None and self.lengths is not None, "spans need a pass that was seen"
        inside = torch.zeros_like(self.numbers, dtype=torch.bool)
        for row, length in enumerate(self.lengths.tolist()):
            for span in spans:
                first, last, _ = as_slice(span).indices(length)
                inside[row] |= (self.numbers[row] >= first) & (self.numbers[row] < last)
        return inside


def _ids(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    ids: Tensor | None = kwargs.get("input_ids", args[0] if args else None)
    return ids


def _position_shaped(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """A tensor of the shape (batch, position) of a pass."""
    ids = _ids(args, kwargs)
    if ids is not None:
        return ids
    embedded: Tensor = kwargs["inputs_embeds"]
    return embedded[..., 0]


def _mask(attention_mask: Any, shaped: Tensor, cached: int) -> Tensor:
    """(batch, cached + position): what is not padding.

    Raises:
        Unsupported: it cannot be known.
    """
    batch, length = shaped.shape
    if isinstance(attention_mask, Tensor) and attention_mask.dim() == 2 and attention_mask.shape[1] >= cached + length:
        return attention_mask
    if attention_mask is not None and (batch > 1 or (isinstance(attention_mask, Tensor) and attention_mask.dim() == 2)):
        raise Unsupported(
            "an edit with [[where]] needs the (batch, position) attention mask of the whole row; give one"
        )
    return torch.ones(batch, cached + length, dtype=torch.long, device=shaped.device)
