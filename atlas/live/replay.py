"""Run only the last layers again, from a changed hidden state: what makes exact ablation cheap.

The layers are the model's own modules, called with the arguments they received in the traced pass; no block
is reimplemented. Many changed copies of the same batch rows go through in one call.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from atlas.errors import Unsupported
from atlas.live.hooks import Capture, affine, editing, narrowing, split_hidden
from atlas.live.layout import Layout


def rows_of(value: Any, rows: Tensor, batch: int) -> Any:
    """The part of a layer argument that belongs to the chosen batch rows.

    Tensors whose first dimension is the batch are indexed; those of size 1 broadcast; position lists
    (one dimension) and everything else are shared by all rows.
    """
    if isinstance(value, Tensor):
        return value[rows] if value.dim() >= 2 and value.shape[0] == batch > 1 else value
    if isinstance(value, tuple | list):
        return type(value)(rows_of(item, rows, batch) for item in value)
    return value


def resume(
    layout: Layout,
    capture: Capture,
    layer: int,
    hidden: Tensor,
    rows: Tensor,
    only: Tensor | None = None,
    end: int | None = None,
) -> Tensor:
    """The input of the final norm when `hidden` enters decoder layer `layer`; with `end`, of that layer instead.

    hidden: (copies, position, d_model); where `layer` is the number of layers it comes back unchanged. Gradients
    flow through where they are enabled.
    rows: (copies,) int64, the traced batch row that each copy stands for.
    only: (copies, k) int64, the positions that will be read: the last layer's FFN, most of its work, is left out
    at the others, whose result is then wrong.
    Returns (copies, position, d_model).
    """
    batch = capture.calls[0][0][0].shape[0]
    for index in range(layer, len(layout.layers) if end is None else end):
        args, kwargs = capture.calls[index]
        _, args, kwargs = split_hidden(args, kwargs)
        args = tuple(rows_of(a, rows, batch) for a in args)
        kwargs = {name: rows_of(value, rows, batch) for name, value in kwargs.items()}
        ffn = layout.ffns[index] if index == len(layout.layers) - 1 else None
        with nullcontext() if only is None or ffn is None else narrowing(ffn, only):
            output = layout.layers[index](hidden, *args, **kwargs)
        hidden = output[0] if isinstance(output, tuple) else output
    return hidden


@torch.no_grad()
def check_additive(layout: Layout, capture: Capture, layer: int) -> None:
    """Subtracting what a neuron wrote from the layer's output must equal zeroing it inside the layer.

    It does not where the FFN's output is not added as it is (a norm behind it, as in Gemma 2 and 3). Tried with the
    largest neuron of the traced pass.

    Raises:
        Unsupported: it does not hold for this model.
    """
    values = capture.values[layer].detach()
    row, _, neuron = (int(i) for i in (values.abs() == values.abs().max()).nonzero()[0])
    one = torch.tensor([row], device=values.device)
    rule = affine(torch.tensor([neuron], device=values.device), *torch.zeros(2, 1, device=values.device))
    with editing(layout, {layer: rule}):
        real = resume(layout, capture, layer, capture.calls[layer][0][0][one].detach(), one, end=layer + 1).float()
    clean = layer_output(capture, layer)[one].detach().float()
    wrote = values[one, :, neuron, None].float() * layout.write_vectors(layer)[:, neuron].float()
    noise = 8 * torch.finfo(layout.unembedding().dtype).eps * real.norm()
    if (clean - wrote - real).norm() > 0.1 * (real - clean).norm() + noise:
        raise Unsupported(
            f"layer {layer} does not add its FFN's output as it is, so it cannot be restarted behind it; "
            "use gradient_x_activation instead"
        )


def layer_output(capture: Capture, layer: int) -> Tensor:
    """(batch, position, d_model): the traced hidden state after decoder layer `layer`."""
    if layer + 1 in capture.calls:
        hidden: Tensor = capture.calls[layer + 1][0][0]
        return hidden
    assert capture.norm_in is not None, "the traced pass did not reach the final norm"
    return capture.norm_in
