"""The weights of layers that bitsandbytes stores in 8 or 4 bits, as the numbers that they multiply with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

KINDS = ("Int8Params", "Params4bit")


@torch.no_grad()
def dense(projection: Any) -> Tensor | None:
    """(output, input) weights in floating point; None where the projection is not quantised by bitsandbytes.

    They are recomputed at every call, as keeping them would cost the memory that quantisation saves.
    """
    weight: Any = getattr(projection, "weight", None)
    if type(weight).__name__ not in KINDS:
        return None
    import bitsandbytes.functional as bits

    if type(weight).__name__ == "Params4bit":
        if getattr(weight.quant_state, "packing_format_for_cpu", False):
            return _weights_by_use(projection)
        weights: Tensor = bits.dequantize_4bit(weight.data, weight.quant_state)
        return weights
    # The scales move when the layer is called for the first time.
    scales = projection.state.SCB if weight.SCB is None else weight.SCB
    rows: Tensor = bits.int8_vectorwise_dequant(weight.data, scales)
    return rows


def _weights_by_use(projection: Any) -> Tensor:
    """The weights, read off the layer's output for unit vectors: after a call on a CPU, its 4 bits are reordered."""
    units = torch.eye(projection.in_features, device=projection.weight.device)
    products: Tensor = projection.forward(units)  # not called: its hooks would run
    return (products if projection.bias is None else products - projection.bias).T
