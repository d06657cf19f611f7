"""The only ways this project touches a running model: `tracing` reads neurons, `editing` changes them.

All register their hooks inside the `with` block under an ExitStack, so a failure at the n-th hook, an
exception in the body or Ctrl-C leaves none behind: the block's indentation is the intervention's lifetime.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from atlas.errors import Unsupported, UsageError
from atlas.live.affine import Rule
from atlas.live.layer_call import Call, first_of, split_hidden
from atlas.live.layout import Layout
from atlas.neurons import INPUT, PRODUCT, TAPS


@dataclass(slots=True)
class Capture:
    """What was recorded of one forward pass.

    values: layer -> (batch, position, neuron), as the model computed them (its dtype, on its device).
    calls: layer -> the arguments its decoder layer was called with; the hidden state comes first.
    between: layer -> what the model itself added to that layer's output before anything read it, (batch, position,
    d_model) float32; only where it did (DeepStack: features of pictures after the first layers of Qwen3-VL).
    norm_in, norm_out: (batch, position, d_model) around the final norm.
    attention_calls, attention_out: layer -> the arguments its self-attention was called with, and its output,
    (batch, position, d_model); only with `attention=True`.
    """

    values: dict[int, Tensor] = field(default_factory=dict)
    calls: dict[int, Call] = field(default_factory=dict)
    between: dict[int, Tensor] = field(default_factory=dict)
    norm_in: Tensor | None = None
    norm_out: Tensor | None = None
    attention_calls: dict[int, Call] = field(default_factory=dict)
    attention_out: dict[int, Tensor] = field(default_factory=dict)


def check_layers(layout: Layout, layers: Sequence[int] | None) -> tuple[int, ...]:
    """The chosen layers, or all of them.

    Raises:
        UsageError: a layer the model does not have.
    """
    chosen = tuple(range(len(layout.layers))) if layers is None else tuple(layers)
    for layer in chosen:
        if not 0 <= layer < len(layout.layers):
            raise UsageError(f"no layer {layer}; this model has layers 0-{len(layout.layers) - 1}")
    return chosen


@contextmanager
def tracing(
    layout: Layout,
    *,
    layers: Sequence[int] | None = None,
    tap: str = PRODUCT,
    grad: bool = False,
    attention: bool = False,
) -> Iterator[Capture]:
    """Record neuron values, layer inputs and the final norm of the forward pass run inside the block.

    layers: which layers' neurons to keep; all by default. tap: "product" (input of the down projection), "gate" (the
    activation function's output), or "input" (what a plain FFN's activation function is given). grad: make the first
    layer's input a leaf that requires gradients, so the values are part of a graph that starts at the language model
    (the vision tower stays out of it); call the model with gradients enabled and `torch.autograd.grad` with respect to
    `values`.
    attention: also record what the layers' self-attention was called with (see `atlas.live.attention`).

    A second forward pass in the same block overwrites the first.

    Raises:
        UsageError: an unknown tap or layer; no hook is left behind.
        Unsupported: `attention=True`, and a layer has no self-attention module.
    """
    if tap not in (*TAPS, INPUT):
        raise UsageError(f"no tap called '{tap}'; taps are {', '.join(TAPS)}")
    capture = Capture()
    with ExitStack() as stack:
        for index, module in enumerate(layout.layers):
            _record_call(stack, module, index, capture, leaf=grad and index == 0)
            _record_between(stack, layout, index, capture)
        for layer in check_layers(layout, layers):
            module, is_output = layout.tapped(layer, tap)
            _record_values(stack, module, layer, capture, is_output)
            if attention:
                _record_attention(stack, layout, layer, capture)
        _record_norm(stack, layout.norm, capture)
        yield capture


def _record_call(stack: ExitStack, module: nn.Module, index: int, capture: Capture, *, leaf: bool) -> None:
    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
        hidden, args, kwargs = split_hidden(args, kwargs)
        if leaf:
            hidden = hidden.detach().requires_grad_(True)
        capture.calls[index] = ((hidden, *args), kwargs)
        return capture.calls[index] if leaf else None

    stack.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)


def _record_between(stack: ExitStack, layout: Layout, layer: int, capture: Capture) -> None:
    def keep(output: Tensor, read: Tensor) -> None:
        capture.between.pop(layer, None)
        if read is not output and read.shape == output.shape:
            added = read.detach().float() - output.detach().to(read.device).float()
            if added.any():
                capture.between[layer] = added

    _see_between(stack, layout, layer, keep)


def _see_between(stack: ExitStack, layout: Layout, layer: int, see: Callable[[Tensor, Tensor], Tensor | None]) -> None:
    """Let `see` compare a layer's output with what the next one (or the final norm) reads, and replace the latter."""
    outputs: list[Tensor] = []

    def after(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        outputs[:] = [first_of(output)]

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
        hidden, args, kwargs = split_hidden(args, kwargs)
        changed = see(outputs.pop(), hidden) if outputs else None
        return None if changed is None else ((changed, *args), kwargs)

    reader = [*layout.layers, layout.norm][layer + 1]
    stack.callback(layout.layers[layer].register_forward_hook(after).remove)
    stack.callback(reader.register_forward_pre_hook(before, with_kwargs=True).remove)


def _record_values(stack: ExitStack, module: nn.Module, layer: int, capture: Capture, is_output: bool) -> None:
    def keep(values: Tensor) -> Tensor | None:
        """OPT flattens batch and position before its FFN: keep (batch, position, neuron), and give its flat view back
        to the module, so that gradients flow through the kept tensor."""
        hidden: Tensor = capture.calls[layer][0][0]
        batched = values.view(*hidden.shape[:2], values.shape[-1])
        capture.values[layer] = values if values.dim() == 3 else batched
        return None if values.dim() == 3 else batched.view(values.shape)

    if is_output:
        handle = module.register_forward_hook(lambda _m, _args, output: keep(output))
    else:
        handle = module.register_forward_pre_hook(lambda _m, args: keep(args[0]))
    stack.callback(handle.remove)


def _record_attention(stack: ExitStack, layout: Layout, layer: int, capture: Capture) -> None:
    module = layout.attentions[layer]
    if module is None:
        raise Unsupported(f"{type(layout.layers[layer]).__name__} has no self-attention module; leave out attention")

    def after(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        capture.attention_calls[layer] = (args, kwargs)
        capture.attention_out[layer] = output[0] if isinstance(output, tuple) else output

    stack.callback(module.register_forward_hook(after, with_kwargs=True).remove)


def _record_norm(stack: ExitStack, norm: nn.Module, capture: Capture) -> None:
    def after(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        capture.norm_in, capture.norm_out = args[0], output

    stack.callback(norm.register_forward_hook(after).remove)


@contextmanager
def narrowing(module: nn.Module, positions: Tensor) -> Iterator[None]:
    """Run a position-wise module (an FFN) at some positions only; its output is zero at the others.

    positions: (batch, k) int64. For the last layer of a replay whose other positions are not read.
    """
    length = 0

    def before(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        nonlocal length
        length = args[0].shape[1]
        return (args[0].gather(1, positions[..., None].expand(-1, -1, args[0].shape[-1])), *args[1:])

    def after(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> Tensor:
        spread = output.new_zeros(output.shape[0], length, output.shape[-1])
        return spread.scatter(1, positions[..., None].expand_as(output), output)

    with ExitStack() as stack:
        stack.callback(module.register_forward_pre_hook(before).remove)
        stack.callback(module.register_forward_hook(after).remove)
        yield


@contextmanager
def shuffling(layout: Layout, order: Tensor) -> Iterator[None]:
    """Give each position another's embedding while the block lasts, with what the model adds for it between layers.

    order: (batch, position) int64, which embedding each position gets. A model that adds learned position embeddings
    before its first layer is refused, as these would move too.

    Raises:
        Unsupported: the model has learned position embeddings.
    """
    if layout.learned_positions:
        raise Unsupported("image tokens cannot be shuffled: this model adds learned position embeddings to them")

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        hidden, args, kwargs = split_hidden(args, kwargs)
        return (hidden.gather(1, order[..., None].expand_as(hidden)), *args), kwargs

    def move(output: Tensor, read: Tensor) -> Tensor | None:
        if read is output:
            return None
        added = read - output.to(read.device)
        return output.to(read.device) + added.gather(1, order[..., None].expand_as(added).to(added.device))

    with ExitStack() as stack:
        for layer in range(len(layout.layers)):
            _see_between(stack, layout, layer, move)
        stack.callback(layout.layers[0].register_forward_pre_hook(before, with_kwargs=True).remove)
        yield


@contextmanager
def editing(layout: Layout, rules: Mapping[int, Rule], *, tap: str = PRODUCT) -> Iterator[None]:
    """Replace each layer's neuron values by `rules[layer](values)` while the block lasts.

    The rule must not change its argument in place. With tap "product" the down projection sees the new
    values; with "gate" they are multiplied by the up projection as usual.
    """
    if tap not in (*TAPS, INPUT):
        raise UsageError(f"no tap called '{tap}'; taps are {', '.join(TAPS)}")
    with ExitStack() as stack:
        for layer in check_layers(layout, sorted(rules)):
            module, is_output = layout.tapped(layer, tap)
            rule = rules[layer]
            if is_output:
                handle = module.register_forward_hook(lambda _m, _args, output, rule=rule: rule(output))
            else:
                handle = module.register_forward_pre_hook(lambda _m, args, rule=rule: (rule(args[0]), *args[1:]))
            stack.callback(handle.remove)
        yield


Look = Callable[[tuple[Any, ...], dict[str, Any]], None]
"""A function that sees the arguments of a call."""


@contextmanager
def watching(module: nn.Module, see: Look, leave: Callable[[], None] | None = None) -> Iterator[None]:
    """Call `see` with the arguments of every call of a module while the block lasts, and `leave` when the call ends,
    also by an exception."""
    with ExitStack() as stack:
        handle = module.register_forward_pre_hook(lambda _m, args, kwargs: see(args, kwargs), with_kwargs=True)
        stack.callback(handle.remove)
        if leave is not None:
            after = module.register_forward_hook(lambda _m, _args, _output: leave(), always_call=True)
            stack.callback(after.remove)
        yield


Write = tuple[Tensor, Tensor, Callable[[Tensor], Tensor | None]]
"""The neurons whose write vectors change, (k,) int64; the deltas, (k, d_model); and a function of the down projection's
input, (..., neurons), that gives a bool for each position, or None for all."""


@contextmanager
def writing(layout: Layout, writes: Mapping[int, Sequence[Write]]) -> Iterator[None]:
    """Add deltas to neurons' write vectors while the block lasts; no weight is touched.

    The same as adding them to columns of the down projection. Gradients flow to deltas that require them.
    """

    def after(_: nn.Module, args: tuple[Any, ...], output: Tensor, *, layer_writes: Sequence[Write]) -> Tensor:
        exact = torch.promote_types(output.dtype, torch.float32)
        added = torch.zeros_like(output, dtype=exact)
        for index, deltas, where in layer_writes:
            values = args[0].index_select(-1, index.to(args[0].device)).to(exact)
            mask = where(args[0])
            # Not a product with the mask: 0 * infinity would be NaN.
            values = values if mask is None else values.masked_fill(~mask[..., None], 0.0)
            added = added + values @ deltas.to(values)
        return (output.to(exact) + added).to(output.dtype)

    with ExitStack() as stack:
        for layer in check_layers(layout, sorted(writes)):
            home = next((p.device for p in layout.down[layer].parameters() if not p.is_meta), None)
            layer_writes = [(i, d, w) if home is None else (i.to(home), d.to(home), w) for i, d, w in writes[layer]]
            handle = layout.down[layer].register_forward_hook(partial(after, layer_writes=layer_writes))
            stack.callback(handle.remove)
        yield
