"""Checks of values read from a model family: neuron values, logits, decodings, gradients, attention."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from atlas.edits.edit import Change, Intervention
from atlas.live.attention import weights
from atlas.live.edit.apply import changing
from atlas.live.hooks import tracing
from atlas.live.layout import Layout, columns_of
from atlas.live.logit_lens import decode
from atlas.live.norms import behind_ffn, direct_directions
from atlas.neurons import Neuron
from atlas.query.decoded import PLAIN, Z
from atlas.testing.subjects import CLOSE, NotApplicable, Subject


def locates(subject: Subject) -> None:
    """Layers, widths and write vectors are found."""
    layout = subject.live.layout
    assert (len(layout.layers), layout.width, layout.d_model) == (2, 64, 32)
    assert all(layout.write_vectors(layer).shape == (32, 64) for layer in range(2))


def traces_product(subject: Subject) -> None:
    """The traced product equals the recomputed one."""
    for read, values, gate in recomputed(subject, "product"):
        expected = gate if read is None else gate * read
        torch.testing.assert_close(values, expected, **CLOSE)


def traces_gate(subject: Subject) -> None:
    """The traced gate equals the recomputed activation."""
    if subject.live.layout.gates[0] is None:
        raise NotApplicable("no gate: the two taps are the same")
    for _, values, gate in recomputed(subject, "gate"):
        torch.testing.assert_close(values, gate, **CLOSE)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": torch.nn.functional.silu,
    "relu": torch.relu,
    "gelu_new": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
}


FIRSTS = ("gate_proj", "up_proj", "fc1", "c_fc")


def recomputed(subject: Subject, tap: str) -> Iterator[tuple[Tensor | None, Tensor, Tensor]]:
    """For each layer: the up projection (None without a gate), the traced values, and the activation function's output,
    recomputed from the inputs of the FFN's first projections."""
    live, layout = subject.live, subject.live.layout
    config = live.model.config.get_text_config(decoder=True)
    names = ("hidden_act", "hidden_activation", "activation_function")
    act = ACTIVATIONS[next(getattr(config, n) for n in names if getattr(config, n, None))]
    read: dict[str, Tensor] = {}
    firsts = [
        {n.rsplit(".", 1)[-1]: m for n, m in layer.named_modules() if n.endswith(FIRSTS)} for layer in layout.layers
    ]
    handles = [
        module.register_forward_pre_hook(lambda _m, args, key=f"{i}.{name}": read.update({key: args[0]}))
        for i, modules in enumerate(firsts)
        for name, module in modules.items()
    ]
    batch = live.batch(subject.prompts())
    try:
        with torch.no_grad(), tracing(layout, tap=tap) as capture:
            live.forward(batch)
    finally:
        for handle in handles:
            handle.remove()
    for i, modules in enumerate(firsts):
        outs = {n: read[f"{i}.{n}"] @ columns_of(m).T + (0 if m.bias is None else m.bias) for n, m in modules.items()}
        [first] = [out for n, out in outs.items() if n != "up_proj"]
        up = outs.get("up_proj")
        values = capture.values[i].reshape(-1, 64)
        yield None if up is None else up.reshape(-1, 64), values, act(first.reshape(-1, 64))


def agrees(subject: Subject) -> None:
    """Logits computed from the final norm's output are the model's own."""
    batch = subject.live.batch(subject.prompts())
    with torch.no_grad():
        expected = subject.live.model(**batch.inputs, use_cache=False).logits.float()
    for row, logits in zip(expected, subject.logits(subject.prompts()), strict=True):
        torch.testing.assert_close(logits.clamp(-1e30), row[: len(logits)].clamp(-1e30), **CLOSE)


def decodes(subject: Subject) -> None:
    """The decoded tokens of a neuron equal those computed by hand, by the plain projection and by z."""
    live, layout = subject.live, subject.live.layout
    head = layout.unembedding().float()
    write = torch.stack([_write_vectors(layout, layer) for layer in range(len(layout.layers))])  # layer, neuron, d
    plain = write @ head.T
    directions = plain / write.norm(dim=-1, keepdim=True)
    z = (directions - directions.mean((0, 1))) / directions.std((0, 1), correction=0)
    hidden = [*live.encoder.tokenizer.all_special_ids, *range(len(live.encoder.tokenizer), len(head))]
    hidden += live.encoder.role_of.media_ids.values()
    decoded = {(d.projection, d.layer, d.side): d for d in decode(live, top=3)}
    for projection, values in ((PLAIN, plain), (Z, z)):
        values[..., hidden] = -torch.inf
        for layer, neuron in ((0, 5), (1, 40)):
            wanted = values[layer, neuron].topk(3)
            found = decoded[projection, layer, "top"]
            assert found.tokens[neuron].tolist() == wanted.indices.tolist()
            torch.testing.assert_close(found.values[neuron], wanted.values.cpu(), **CLOSE)


def _write_vectors(layout: Layout, layer: int) -> Tensor:
    """(neurons, d_model): a layer's columns of the down projection, through the norm after its FFN, if there is one."""
    write = layout.write_vectors(layer).float().T
    norm_after: Any = layout.after[layer]
    return write if norm_after is None else write * norm_after.forward(torch.ones(1, 32, device=write.device))[0]


def adds_up(subject: Subject) -> None:
    """The direct effects of all neurons, with what attention and embeddings write, sum to the logit."""
    live, layout = subject.live, subject.live.layout
    prompts = subject.prompts()[:1]
    batch = live.batch(prompts)
    streams: list[Tensor] = []
    handles = [m.register_forward_hook(lambda _m, _a, out: streams.append(first_of(out))) for m in layout.layers]
    try:
        with torch.no_grad(), tracing(layout) as capture:
            live.forward(batch)
    finally:
        for handle in handles:
            handle.remove()
    at = (0, batch.starts[0] - 1)
    assert capture.norm_in is not None and capture.norm_out is not None
    before, after = capture.norm_in[at][None], capture.norm_out[at][None]
    token = live.logits(after).argmax(-1)
    [direction] = direct_directions(layout, token, before, after)
    total = streams[0][at].float() @ direction  # what the second layer reads
    values = capture.values[1][at]
    down: Any = layout.down[1]
    wrote = columns_of(down) @ values + (0 if down.bias is None else down.bias)
    frozen = behind_ffn(layout, 1, direction[None], wrote[None])[0]
    ffn = float(values @ (frozen @ layout.write_vectors(1))) + float(0 if down.bias is None else down.bias @ frozen)
    # The stream after the last layer is its input, and what its attention and its FFN wrote.
    attended = streams[1][at].float() - streams[0][at].float() - written(layout, 1, wrote)
    logit = total + attended @ direction + ffn
    norm: Any = layout.norm
    bias = 0 if getattr(norm, "bias", None) is None else norm.bias @ layout.unembedding()[token[0]]
    expected = live.logits(after)[0, token[0]]
    torch.testing.assert_close(logit + bias, expected, **CLOSE)


def first_of(out: Any) -> Tensor:
    """The hidden state in a layer's output."""
    first: Tensor = out[0] if isinstance(out, tuple) else out
    return first


def written(layout: Any, layer: int, wrote: Tensor) -> Tensor:
    """What the FFN adds to the residual stream, given its down projection's output."""
    after = layout.after[layer]
    return wrote if after is None else after.forward(wrote[None])[0]


def differentiates(subject: Subject) -> None:
    """The derivative by a neuron's value matches the change of the logit when the value is nudged."""
    live, layout = subject.live, subject.live.layout
    batch = live.batch(subject.prompts()[:1])
    at, neuron = batch.starts[0] - 1, 11
    with torch.enable_grad(), tracing(layout, grad=True) as capture:
        live.forward(batch)
        assert capture.norm_out is not None
        logits = live.logits(capture.norm_out[0, at])
        token = int(logits.argmax())
        [slope] = torch.autograd.grad(logits[token], capture.values[0])
    derivative = float(slope[0, :, neuron].sum())
    nudged_logits = []
    for step in (-1e-2, 1e-2):
        nudged = Intervention((Change(Neuron("language", 0, neuron), bias=step),), "product")
        with changing(live, nudged), torch.no_grad(), tracing(layout) as capture:
            live.forward(batch)
        assert capture.norm_out is not None
        nudged_logits.append(float(live.logits(capture.norm_out[0, at])[token]))
    measured = (nudged_logits[1] - nudged_logits[0]) / 2e-2
    assert abs(measured - derivative) <= 0.02 * max(abs(derivative), abs(measured)) + 2e-3, (measured, derivative)


def attends(subject: Subject) -> None:
    """The attention weights are those of the whole model in HuggingFace's eager implementation."""
    live = subject.live
    batch = live.batch(subject.prompts())
    real = batch.roles != 0
    with torch.no_grad(), tracing(live.layout, attention=True) as capture:
        live.forward(batch)
        recomputed_weights = [weights(live.layout, capture, layer, real) for layer in range(2)]
    eager_weights: dict[int, Tensor] = {}
    handles = [
        module.register_forward_hook(lambda _m, _a, out, layer=i: eager_weights.update({layer: out[1]}))
        for i, module in enumerate(live.layout.attentions)
        if module is not None
    ]
    with eager(live.model):
        try:
            with torch.no_grad():
                live.forward(batch)
        finally:
            for handle in handles:
                handle.remove()
    for layer in range(2):
        expected = eager_weights[layer] * real[:, None, :, None]
        torch.testing.assert_close(recomputed_weights[layer], expected, **CLOSE)


@contextmanager
def eager(model: Any) -> Iterator[None]:
    """Use HuggingFace's eager attention while the block lasts."""
    configs = {id(config): config for module in model.modules() if (config := getattr(module, "config", None))}
    usual = {key: config._attn_implementation for key, config in configs.items()}
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        # By config, as a part may take no other implementation than its own (EfficientNet).
        for key, config in configs.items():
            config._attn_implementation = usual[key]
