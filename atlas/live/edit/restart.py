"""Run only the last layers again, from a changed hidden state: what makes exact ablation cheap.

The layers are the model's own modules, called with the arguments they received in the traced pass; no block
is reimplemented. What the model adds between its layers, which no layer gives (Qwen3-VL's features of pictures), is
added as in the traced pass. Many changed copies of the same batch rows go through in one call.
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
    only: Tensor | None = None,
    end: int | None = None,
) -> Tensor:
    """The input of the final norm when `hidden` enters decoder layer `layer`; with `end`, of that layer instead.

    hidden: (copies, position, d_model), in the model's precision or in float32, in which all is computed then
    (`atlas.live.matmul.calling`); where `layer` is the number of layers it comes back unchanged. Gradients flow
    through where they are enabled.
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
            output = calling(layout.layers[index], hidden, *args, **kwargs)
        hidden = behind(capture, index, first_of(output), rows)
    return hidden


def behind(capture: Capture, layer: int, output: Tensor, rows: Tensor, begin: int = 0) -> Tensor:
    """What is read behind decoder layer `layer` when it gives `output`, (copies, position, d_model), at the positions
    from `begin` on."""
    if layer not in capture.between:
        return output
    return (output.float() + capture.between[layer][rows, begin : begin + output.shape[1]]).to(output.dtype)


class Restarts:
    """Whether a model can be restarted behind its layers, looked at once for each layer and kind of batch.

    Passes are of one kind when they are of one source and the model adds something behind the same layers.
    """

    def __init__(self) -> None:
        self._known: set[tuple[object, ...]] = set()

    def check(self, layout: Layout, capture: Capture, layer: int, source: str) -> None:
        """Raise Unsupported where restarting behind `layer`, without what a neuron wrote, is another model."""
        kind = (source, layer, *sorted(capture.between))
        if kind not in self._known:
            check_additive(layout, capture, layer)
            self._known.add(kind)


@torch.no_grad()
def check_additive(layout: Layout, capture: Capture, layer: int) -> None:
    """A layer must give the same when it is run again, and subtracting what a neuron wrote from its output must equal
    zeroing the neuron inside.

    It does not where the FFN's output is not added as it is (a norm behind it, as in Gemma 2 and 3). Tried with the
    largest neuron of the traced pass.

    Raises:
        Unsupported: it does not hold for this model.
    """
    for index, added in capture.between.items():
        if index >= layer and added.any(-1).all():  # no picture's feature: those are not behind words
            raise _unsupported(f"the model changes its hidden states behind layer {index} by itself")
    values = capture.values[layer].detach()
    row, _, neuron = (int(i) for i in (values.abs() == values.abs().max()).nonzero()[0])
    one = torch.tensor([row], device=values.device)
    rule = affine(torch.tensor([neuron], device=values.device), *torch.zeros(2, 1, device=values.device))
    entered = capture.calls[layer][0][0][one].detach()
    clean = layer_output(capture, layer)[one].detach().float()
    eps = torch.finfo(layout.unembedding().dtype).eps
    again = resume(layout, capture, layer, entered, one, end=layer + 1).float()
    if (again - clean).norm() > min(100 * eps, 0.05) * clean.norm():
        raise _unsupported(f"layer {layer} does not give the same when it is run again by itself")
    with editing(layout, {layer: rule}):
        real = resume(layout, capture, layer, entered, one, end=layer + 1).float()
    wrote = values[one, :, neuron, None].float() * layout.write_vectors(layer)[:, neuron].float()
    if (clean - wrote - real).norm() > 0.1 * (real - clean).norm() + 8 * eps * real.norm():
        raise _unsupported(f"layer {layer} does not add its FFN's output as it is")


def _unsupported(reason: str) -> Unsupported:
    return Unsupported(f"{reason}, so it cannot be restarted behind it; use gradient_x_activation instead")


def layer_output(capture: Capture, layer: int) -> Tensor:
    """(batch, position, d_model): the traced hidden state that is read behind decoder layer `layer`."""
    if layer + 1 in capture.calls:
        hidden: Tensor = capture.calls[layer + 1][0][0]
        return hidden
    assert capture.norm_in is not None, "the traced pass did not reach the final norm"
    return capture.norm_in
