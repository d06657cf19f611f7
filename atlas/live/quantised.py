"""The weights of layers that bitsandbytes keeps in 8 or 4 bits, as the numbers that they multiply with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

KINDS = ("Int8Params", "Params4bit")


@torch.no_grad()
def dense(projection: Any) -> Tensor | None:
    """(output, input) weights in floating point; None where the projection is not quantised by bitsandbytes.

    They are made anew at every call, as keeping them would give back the memory that was saved.
    """
    weight: Any = getattr(projection, "weight", None)
    if type(weight).__name__ not in KINDS:
        return None
    import bitsandbytes.functional as bits

    if type(weight).__name__ == "Params4bit":
        if getattr(weight.quant_state, "packing_format_for_cpu", False):
            return _as_multiplied(projection)
        whole: Tensor = bits.dequantize_4bit(weight.data, weight.quant_state)
        return whole
    # Where the scales are depends on whether the layer was called before.
    scales = projection.state.SCB if weight.SCB is None else weight.SCB
    rows: Tensor = bits.int8_vectorwise_dequant(weight.data, scales)
    return rows


def _as_multiplied(projection: Any) -> Tensor:
    """The weights by what they do to unit vectors: called once on a CPU, a layer keeps its 4 bits in another order."""
    units = torch.eye(projection.in_features, device=projection.weight.device)
    found: Tensor = projection.forward(units)  # not called: its hooks are others'
    return (found if projection.bias is None else found - projection.bias).T
