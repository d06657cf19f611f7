"""Whether the results of passes are finite: noted on the device and read once for many passes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from atlas.live.finite import NotFinite, broken_rows, not_finite
from atlas.live.hooks import Capture

Note = tuple[str, Tensor, tuple[int, ...]]
"""A name of the values, the rows where they are not finite, (rows,) bool on the device, and the rows' examples."""


class FiniteCheck:
    """Notes on one pass (see `of_pass`) or many. dtype: the model's, for the message."""

    def __init__(self, dtype: str) -> None:
        self.dtype, self.notes = dtype, list[Note]()

    def of_pass(self, capture: Capture, real: Tensor, numbers: Sequence[int]) -> None:
        """Note the neuron values and the final norm's output at the positions that are `real`, (B, T).

        numbers: each row's example.
        """
        self.of_values(capture.values, real, numbers, "the neurons of layer {}")
        if capture.norm_out is not None:
            self.notes.append(("the final norm's output", broken_rows(capture.norm_out, real), tuple(numbers)))

    def of_values(self, values: Mapping[int, Tensor], real: Tensor, numbers: Sequence[int], what: str) -> None:
        """Note (B, T, N) values of some layers. what: a name with a placeholder for the layer."""
        self.notes += [(what.format(y), broken_rows(values[y], real), tuple(numbers)) for y in sorted(values)]

    def done(self, later: FiniteCheck | None) -> None:
        """Check now, or hand the notes to `later`, which checks many passes at once."""
        if later is None:
            self.check()
        else:
            later.notes += self.notes

    def check(self, name: Callable[[int], str] = "example number {}".format) -> None:
        """Check everything noted, waiting for the device once, and clear the notes.

        Raises:
            NotFinite: some value is not finite; the message names the first in the order of passes and layers.
        """
        notes, self.notes = self.notes, []
        if not notes:
            return
        answers = torch.stack([broken.any() for _, broken, _ in notes]).tolist()
        for (what, broken, numbers), wrong in zip(notes, answers, strict=True):
            if wrong:
                examples = [name(number) for number, bad in zip(numbers, broken.tolist(), strict=True) if bad]
                raise not_finite(what, list(dict.fromkeys(examples)), self.dtype)


def check_state(method: str, of: Any, state: Mapping[str, Tensor]) -> None:
    """Check that a method's sums have no NaN or infinity, before they are stored.

    A method whose neurons may lack a score on purpose has the attribute `unscored`; then NaN means no score.

    Raises:
        NotFinite: they have.
    """
    may_lack = bool(getattr(of, "unscored", False))
    for key, value in state.items():
        broken = value.isinf() if may_lack else ~value.isfinite()
        if value.is_floating_point() and bool(broken.any()):
            kind, _, about = key.partition("|")
            raise NotFinite(
                f"the scores of {method} are NaN or infinite ({kind} of {about.replace('|', ' ').strip() or 'all'}); "
                "use [[dtype=float32]], or leave out the method"
            )
