"""Run only the last layers again, from a changed hidden state, which makes exact ablation cheap.

The layers are the model's own modules, called with the arguments they received in the traced pass; no block
is reimplemented. What the model adds between its layers (Qwen3-VL's features of pictures) is added as in the traced
pass. Many changed copies of the same batch rows run in one call.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor

from atlas.errors import Unsupported
from atlas.live.affine import affine
from atlas.live.hooks import Capture, editing, narrowing
from atlas.live.layer_call import first_of, rows_of, split_hidden
from atlas.live.layout import Layout
from atlas.live.matmul import calling


def resume(
    layout: Layout,
    capture: Capture,
    layer: int,
    hidden: Tensor,
    rows: Tensor,
    positions: Tensor | None = None,
    end: int | None = None,
) -> Tensor:
    """The input of the final norm when `hidden` enters decoder layer `layer`; with `end`, of that layer instead.

    hidden: (copies, position, d_model), in the model's precision, or in float32, in which everything is then computed
    (`atlas.live.matmul.calling`); where `layer` is the number of layers it is returned unchanged. Gradients flow
    through where they are enabled.
    rows: (copies,) int64, the traced batch row of each copy.
    positions: (copies, k) int64, the positions that will be read: the last layer's FFN, most of its work, is skipped
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
        with nullcontext() if positions is None or ffn is None else narrowing(ffn, positions):
            output = calling(layout.layers[index], hidden, *args, **kwargs)
        hidden = read_after(capture, index, first_of(output), rows)
    return hidden


def read_after(capture: Capture, layer: int, output: Tensor, rows: Tensor, begin: int = 0) -> Tensor:
    """What is read after decoder layer `layer` when it gives `output`, (copies, position, d_model), at the positions
    from `begin` on."""
    if layer not in capture.between:
        return output
    return (output.float() + capture.between[layer][rows, begin : begin + output.shape[1]]).to(output.dtype)


class Restarts:
    """Whether a model can be restarted after its layers, checked once for each layer and kind of batch.

    Passes are of one kind when they have one source and the model adds something after the same layers.
    """

    def __init__(self) -> None:
        self._known: set[tuple[object, ...]] = set()

    def check(self, layout: Layout, capture: Capture, layer: int, source: str) -> None:
        """Raise Unsupported where restarting after `layer`, without what a neuron wrote, gives wrong results."""
        kind = (source, layer, *sorted(capture.between))
        if kind not in self._known:
            check_additive(layout, capture, layer)
            self._known.add(kind)


@torch.no_grad()
def check_additive(layout: Layout, capture: Capture, layer: int) -> None:
    """Check that a layer gives the same output when run again, and that subtracting what a neuron wrote from its output
    equals zeroing the neuron.

    It does not where the FFN's output passes through a norm before it is added (Gemma 2 and 3). Tested with the largest
    neuron of the traced pass.

    Raises:
        Unsupported: it does not hold for this model.
    """
    for index, added in capture.between.items():
        if index >= layer and added.any(-1).all():  # not picture features: those are at pictures only
            raise _unsupported(f"the model changes its hidden states after layer {index}")
    values = capture.values[layer].detach()
    row, _, neuron = (int(i) for i in (values.abs() == values.abs().max()).nonzero()[0])
    one = torch.tensor([row], device=values.device)
    rule = affine(torch.tensor([neuron], device=values.device), *torch.zeros(2, 1, device=values.device))
    entered = capture.calls[layer][0][0][one].detach()
    clean = layer_output(capture, layer)[one].detach().float()
    eps = torch.finfo(layout.unembedding().dtype).eps
    again = resume(layout, capture, layer, entered, one, end=layer + 1).float()
    if (again - clean).norm() > min(100 * eps, 0.05) * clean.norm():
        raise _unsupported(f"layer {layer} does not give the same output when it is run again")
    with editing(layout, {layer: rule}):
        real = resume(layout, capture, layer, entered, one, end=layer + 1).float()
    wrote = values[one, :, neuron, None].float() * layout.write_vectors(layer)[:, neuron].float()
    if (clean - wrote - real).norm() > 0.1 * (real - clean).norm() + 8 * eps * real.norm():
        raise _unsupported(f"layer {layer} does not add its FFN's output unchanged")


def _unsupported(reason: str) -> Unsupported:
    return Unsupported(f"{reason}, so the model cannot be restarted there; use gradient_x_activation instead")


def layer_output(capture: Capture, layer: int) -> Tensor:
    """(batch, position, d_model): the traced hidden state after decoder layer `layer`."""
    if layer + 1 in capture.calls:
        hidden: Tensor = capture.calls[layer + 1][0][0]
        return hidden
    assert capture.norm_in is not None, "the traced pass did not reach the final norm"
    return capture.norm_in
