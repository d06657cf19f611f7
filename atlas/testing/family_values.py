"""Checks of what is read of a model family: neuron values, logits, decodings, gradients, attention."""

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
from atlas.live.layout import columns_of
from atlas.live.logit_lens import decode
from atlas.live.norms import behind_ffn, direct_directions
from atlas.neurons import Neuron
from atlas.testing.subjects import CLOSE, NotThere, Subject


def locates(of: Subject) -> None:
    layout = of.live.layout
    assert (len(layout.layers), layout.width, layout.d_model) == (2, 64, 32)
    assert all(layout.write_vectors(layer).shape == (32, 64) for layer in range(2))


def traces_product(of: Subject) -> None:
    for read, values, gate in recomputed(of, "product"):
        expected = gate if read is None else gate * read
        torch.testing.assert_close(values, expected, **CLOSE)


def traces_gate(of: Subject) -> None:
    if of.live.layout.gates[0] is None:
        raise NotThere("no gate: the two taps are the same")
    for _, values, gate in recomputed(of, "gate"):
        torch.testing.assert_close(values, gate, **CLOSE)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": torch.nn.functional.silu,
    "relu": torch.relu,
    "gelu_new": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
}


FIRSTS = ("gate_proj", "up_proj", "fc1", "c_fc")


def recomputed(of: Subject, tap: str) -> Iterator[tuple[Tensor | None, Tensor, Tensor]]:
    """Of each layer: the up projection (None without a gate), what was traced, and the activation function's output, by
    hand from what the FFN's first projections read."""
    live, layout = of.live, of.live.layout
    config = live.model.config.get_text_config(decoder=True)
    names = ("hidden_act", "hidden_activation", "activation_function")
    act = ACTIVATIONS[next(getattr(config, n) for n in names if getattr(config, n, None))]
    read: dict[str, Tensor] = {}
    firsts = [
        {n.rsplit(".", 1)[-1]: m for n, m in layer.named_modules() if n.endswith(FIRSTS)} for layer in layout.layers
    ]
    handles = [
        module.register_forward_pre_hook(lambda _m, args, key=f"{i}.{name}": read.update({key: args[0]}))
        for i, found in enumerate(firsts)
        for name, module in found.items()
    ]
    batch = live.batch(of.prompts())
    try:
        with torch.no_grad(), tracing(layout, tap=tap) as capture:
            live.forward(batch)
    finally:
        for handle in handles:
            handle.remove()
    for i, found in enumerate(firsts):
        outs = {n: read[f"{i}.{n}"] @ columns_of(m).T + (0 if m.bias is None else m.bias) for n, m in found.items()}
        [first] = [out for n, out in outs.items() if n != "up_proj"]
        up = outs.get("up_proj")
        values = capture.values[i].reshape(-1, 64)
        yield None if up is None else up.reshape(-1, 64), values, act(first.reshape(-1, 64))


def agrees(of: Subject) -> None:
    """Logits made of the final norm's output are the model's own."""
    batch = of.live.batch(of.prompts())
    with torch.no_grad():
        expected = of.live.model(**batch.inputs, use_cache=False).logits.float()
    for row, logits in zip(expected, of.logits(of.prompts()), strict=True):
        torch.testing.assert_close(logits.clamp(-1e30), row[: len(logits)].clamp(-1e30), **CLOSE)


def decodes(of: Subject) -> None:
    live, layout = of.live, of.live.layout
    for norm in (False, True):
        found = {(d.layer, d.side): d for d in decode(live, norm=norm, top=3)}
        for layer, neuron in ((0, 5), (1, 40)):
            head = layout.unembedding().float()
            if norm:
                ones = torch.ones(1, 32, device=head.device)
                gain = (
                    layout.norm.forward(ones)[0]
                    if not isinstance(layout.norm, torch.nn.LayerNorm)
                    else layout.norm.weight
                )
                head = head * gain
                head = head - head.mean(-1, keepdim=True) if isinstance(layout.norm, torch.nn.LayerNorm) else head
            write = layout.write_vectors(layer)[:, neuron].float()
            behind: Any = layout.after[layer]
            if behind is not None:
                write = write * behind.forward(torch.ones(1, 32, device=write.device))[0]
            logits = head @ write
            tokenizer = live.encoder.tokenizer
            for token in {*tokenizer.all_special_ids, *range(len(tokenizer), len(logits))}:
                logits[token] = -torch.inf
            for ids in live.encoder.role_of.media_ids.values():
                logits[ids] = -torch.inf
            assert found[layer, "top"].tokens[neuron].tolist() == logits.topk(3).indices.tolist()


def adds_up(of: Subject) -> None:
    """The direct effects of all neurons, with what attention and embeddings write, sum to the logit."""
    live, layout = of.live, of.live.layout
    prompts = of.prompts()[:1]
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
    # The stream behind the last layer is what it read, and what its attention and its FFN wrote.
    attended = streams[1][at].float() - streams[0][at].float() - written(layout, 1, wrote)
    logit = total + attended @ direction + ffn
    norm: Any = layout.norm
    bias = 0 if getattr(norm, "bias", None) is None else norm.bias @ layout.unembedding()[token[0]]
    expected = live.logits(after)[0, token[0]]
    torch.testing.assert_close(logit + bias, expected, **CLOSE)


def first_of(out: Any) -> Tensor:
    first: Tensor = out[0] if isinstance(out, tuple) else out
    return first


def written(layout: Any, layer: int, wrote: Tensor) -> Tensor:
    """What the FFN adds to the residual stream, given its down projection's output."""
    after = layout.after[layer]
    return wrote if after is None else after.forward(wrote[None])[0]


def differentiates(of: Subject) -> None:
    """The derivative by a neuron's value is what the logit changes by when the value is nudged."""
    live, layout = of.live, of.live.layout
    batch = live.batch(of.prompts()[:1])
    at, neuron = batch.starts[0] - 1, 11
    with torch.enable_grad(), tracing(layout, grad=True) as capture:
        live.forward(batch)
        assert capture.norm_out is not None
        logits = live.logits(capture.norm_out[0, at])
        token = int(logits.argmax())
        [slope] = torch.autograd.grad(logits[token], capture.values[0])
    whole = float(slope[0, :, neuron].sum())
    found = []
    for step in (-1e-2, 1e-2):
        nudged = Intervention((Change(Neuron("language", 0, neuron), bias=step),), "product")
        with changing(live, nudged), torch.no_grad(), tracing(layout) as capture:
            live.forward(batch)
        assert capture.norm_out is not None
        found.append(float(live.logits(capture.norm_out[0, at])[token]))
    measured = (found[1] - found[0]) / 2e-2
    assert abs(measured - whole) <= 0.02 * max(abs(whole), abs(measured)) + 2e-3, (measured, whole)


def attends(of: Subject) -> None:
    """The weights are those of the whole model run in HuggingFace's eager implementation."""
    live = of.live
    batch = live.batch(of.prompts())
    real = batch.roles != 0
    with torch.no_grad(), tracing(live.layout, attention=True) as capture:
        live.forward(batch)
        found = [weights(live.layout, capture, layer, real) for layer in range(2)]
    seen: dict[int, Tensor] = {}
    handles = [
        module.register_forward_hook(lambda _m, _a, out, layer=i: seen.update({layer: out[1]}))
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
        expected = seen[layer] * real[:, None, :, None]
        torch.testing.assert_close(found[layer], expected, **CLOSE)


@contextmanager
def eager(model: Any) -> Iterator[None]:
    usual = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(usual)
