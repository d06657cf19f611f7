"""What the positions of the pass that is running are: their roles, their places, and whether they are the prompt's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from atlas.errors import Unsupported
from atlas.live.encode import TokenRoles
from atlas.where import ROLES, Where, as_slice

_starts: ContextVar[tuple[int, ...] | None] = ContextVar("starts", default=None)


@contextmanager
def answers_from(starts: Sequence[int]) -> Iterator[None]:
    """Say where each row's answer begins in the teacher-forced passes of the block; else all of a pass without a cache
    counts as prompt."""
    token = _starts.set(tuple(starts))
    try:
        yield
    finally:
        _starts.reset(token)


class Places:
    """Watches a model's passes while an edit needs to know where it is.

    roles: None where the tokens' roles are not known. numbers: (batch, position) int64, the place of each position of
    the running pass in its row, without padding; prompt: (batch, position) bool; lengths: (batch,), the prompt's.
    """

    def __init__(self, roles: TokenRoles):
        self._role_of = roles
        self.roles: Tensor | None = None
        self.numbers: Tensor | None = None
        self.prompt: Tensor | None = None
        self.lengths: Tensor | None = None
        self._masks: dict[Where, Tensor] = {}

    def look(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """See the arguments of a pass of the whole model (see `atlas.live.hooks.watching`)."""
        ids = kwargs.get("input_ids", args[0] if args else None)
        shaped = ids if ids is not None else kwargs["inputs_embeds"][..., 0]
        batch, length = shaped.shape
        cache = kwargs.get("past_key_values")
        seen = int(cache.get_seq_length()) if cache is not None else 0
        mask = kwargs.get("attention_mask")
        if not isinstance(mask, Tensor) or mask.dim() != 2:
            if batch > 1 and mask is not None:
                raise Unsupported("an edit with --where needs the (batch, position) attention mask; give one")
            mask = torch.ones(batch, seen + length, dtype=torch.long, device=shaped.device)
        real = mask[:, seen : seen + length] != 0
        self._masks = {}
        self.numbers = ((mask != 0).cumsum(1) - 1)[:, seen : seen + length]
        self.roles = None if ids is None else self._role_of(ids, real)
        if seen:
            self.prompt = torch.zeros_like(real)
            return
        starts = _starts.get()
        self.prompt = real
        if starts is not None:
            before = torch.arange(length, device=real.device) < torch.tensor(starts, device=real.device)[:, None]
            self.prompt = real & before
        self.lengths = self.prompt.sum(1)

    def mask(self, where: Where) -> Tensor:
        """(batch, position) bool: the positions of the running pass that an edit changes.

        Raises:
            Unsupported: roles are asked for and cannot be known.
        """
        if where not in self._masks:
            self._masks[where] = self._make(where)
        return self._masks[where]

    def _make(self, where: Where) -> Tensor:
        if self.prompt is None or self.numbers is None:
            raise Unsupported("an edit with --where sees passes of the whole model only; call the model, not a part")
        found = torch.ones_like(self.prompt)
        if where.roles:
            found &= self._of_roles(where.roles)
        if where.phase is not None:
            found &= self.prompt == (where.phase == "prefill")
        if where.spans:
            found &= self.prompt & self._within(where.spans)
        return found

    def _of_roles(self, names: Sequence[str]) -> Tensor:
        if self.roles is None:
            raise Unsupported("an edit of token roles needs input_ids; this pass was given embeddings")
        if self._role_of.special is None and ("text" in names) != ("special" in names):
            raise Unsupported("text and special tokens are told apart by the tokenizer: .on(model, processor=...)")
        wanted = torch.tensor([ROLES.index(name) for name in names], device=self.roles.device)
        return torch.isin(self.roles, wanted)

    def _within(self, spans: Sequence[str]) -> Tensor:
        assert self.numbers is not None and self.lengths is not None, "spans are asked of a pass that was seen"
        found = torch.zeros_like(self.numbers, dtype=torch.bool)
        for row, length in enumerate(self.lengths.tolist()):
            for span in spans:
                first, last, _ = as_slice(span).indices(length)
                found[row] |= (self.numbers[row] >= first) & (self.numbers[row] < last)
        return found
