"""Run the last layers again at the last positions only: what a change there cannot reach is read from the traced pass.

In a causal model a position sees itself and those before it, so a change at some positions leaves all earlier ones
unchanged. Their keys and values are recorded once, as in generation, and every changed copy attends to them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from atlas.live.edit.restart import layer_output, read_after
from atlas.live.hooks import Capture
from atlas.live.layer_call import by_name, cache_name, first_of, rows_of
from atlas.live.layout import Layout


class _Prefix:
    """Stands in for a cache: it records the keys and values of the first positions, then prepends them to new ones."""

    def __init__(self) -> None:
        self.states: dict[int, tuple[Tensor, Tensor]] = {}
        self.rows: Tensor | None = None

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        if self.rows is None:
            self.states[layer] = (keys, values)
            return keys, values
        before = (state[self.rows] for state in self.states[layer])
        joined = (torch.cat([b, new], dim=-2) for b, new in zip(before, (keys, values), strict=True))
        return next(joined), next(joined)

    def get_seq_length(self, *_: Any) -> int:
        return next(iter(self.states.values()))[0].shape[-2] if self.states else 0


class Suffix:
    """The layers of one traced pass from position `begin` on.

    refused: why the model's layers, called this way, did not reproduce the traced pass (another kind of attention mask
    or cache), so that `resume` must not be used; "" where they did, or where no position can be skipped.
    """

    def __init__(self, layout: Layout, capture: Capture, begin: int):
        self.layout, self.capture, self.begin = layout, capture, begin
        self.batch, self.length = capture.calls[0][0][0].shape[:2]
        self._prefix = _Prefix()
        self.refused = self._record() if 0 < begin < self.length else ""

    @property
    def works(self) -> bool:
        """Whether `resume` gives the same as whole sequences."""
        return 0 < self.begin < self.length and not self.refused

    @torch.no_grad()
    def _record(self) -> str:
        """Record the first positions and run the others once; returns why that cannot be done."""
        all_rows = torch.arange(self.batch, device=self.capture.calls[0][0][0].device)
        try:
            for layer in range(len(self.layout.layers)):
                hidden = self.capture.calls[layer][0][0].detach()[:, : self.begin]
                self._call(layer, hidden, all_rows, slice(0, self.begin))
            self._prefix.rows = all_rows
            resumed = self.resume(0, self.capture.calls[0][0][0].detach()[:, self.begin :], all_rows)
        except torch.OutOfMemoryError:
            raise
        except (TypeError, ValueError, IndexError, AttributeError, RuntimeError) as error:  # layers of another kind
            return f"its layers refuse to go on from recorded keys and values ({type(error).__name__}: {error})"
        real = layer_output(self.capture, len(self.layout.layers) - 1).detach()[:, self.begin :]
        tolerance = min(100 * torch.finfo(real.dtype).eps, 0.05)
        if len(self._prefix.states) != len(self.layout.layers):
            return "its layers do not keep keys and values where they are looked for"
        same = (resumed - real).float().norm() <= tolerance * real.float().norm()
        return "" if bool(same) else "its layers give another result from recorded keys and values"

    def resume(self, layer: int, hidden: Tensor, rows: Tensor) -> Tensor:
        """The final norm's input at the positions from `begin` on when `hidden` enters decoder layer `layer` there.

        hidden: (copies, positions, d_model). rows: (copies,) int64, the traced row of each copy.
        """
        self._prefix.rows = rows
        for index in range(layer, len(self.layout.layers)):
            hidden = self._call(index, hidden, rows, slice(self.begin, self.length))
        return hidden

    def _call(self, layer: int, hidden: Tensor, rows: Tensor, part: slice) -> Tensor:
        module = self.layout.layers[layer]
        _, kwargs = by_name(module, *self.capture.calls[layer])
        cut = {name: self._cut(rows_of(value, rows, self.batch), part) for name, value in kwargs.items()}
        cut |= {"attention_mask": self._mask(kwargs.get("attention_mask"), rows, part, hidden)}
        cut |= {cache_name(kwargs): self._prefix}
        output = first_of(module(hidden, **cut))
        return read_after(self.capture, layer, output, rows, part.start)

    def _cut(self, value: Any, part: slice) -> Any:
        """The part of a layer argument that belongs to some positions: (T,) or (rows, T, ...)."""
        if isinstance(value, tuple | list):
            return type(value)(self._cut(item, part) for item in value)
        if isinstance(value, Tensor) and value.dim() >= 2 and value.shape[1] == self.length:
            return value[:, part]
        return value[part] if isinstance(value, Tensor) and value.shape == (self.length,) else value

    def _mask(self, recorded: Any, rows: Tensor, part: slice, hidden: Tensor) -> Tensor:
        """(1 or copies, 1, queries, keys): the part of the traced mask, or the causal one where it had none."""
        if isinstance(recorded, Tensor):
            if recorded.dim() != 4:
                raise ValueError("a mask of another kind")
            return rows_of(recorded, rows, self.batch)[..., part, : part.stop]  # type: ignore[no-any-return]
        keys = torch.arange(part.stop, device=hidden.device)
        hidden_from = keys[None] > keys[part][:, None]
        return torch.zeros_like(hidden_from, dtype=hidden.dtype).masked_fill(
            hidden_from, torch.finfo(hidden.dtype).min
        )[None, None]
