"""Attention weights of one layer at a time, against the model's own and against the formula by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from atlas.errors import Unsupported
from atlas.live.attention import last_saliency, value_norms, weights
from atlas.live.encode import PAD, Batch
from atlas.live.hooks import Capture, tracing
from atlas.live.model import LiveModel


@pytest.fixture(params=["llava", "opt"])
def live(request: pytest.FixtureRequest) -> LiveModel:
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]


def two_rows(live: LiveModel, picture: Any) -> Batch:
    """Two prompts of different lengths, with a picture where the model sees."""
    pictures = [[picture], []] if live.encoder.role_of.media_ids else [[], []]
    texts = ["what is this ?", "describe the picture"]
    answers = ["a dog", "two dogs and one hot dog"]
    return live.batch([live.encoder.prompt(t, p, a) for t, p, a in zip(texts, pictures, answers, strict=True)])


def passed(live: LiveModel, batch: Batch, *, grad: bool = False) -> Capture:
    with torch.set_grad_enabled(grad), tracing(live.layout, attention=True, grad=grad) as capture:
        live.forward(batch)
    return capture


def test_the_causal_form_is_what_the_eager_model_computes(live: LiveModel, picture: Any) -> None:
    batch = two_rows(live, picture)
    real = batch.roles != PAD
    assert not bool(real.all()), "without padding this proves less"
    capture = passed(live, batch)
    usual = live.model.config._attn_implementation
    live.model.set_attn_implementation("eager")
    with torch.no_grad():
        wanted = live.model(**batch.inputs, use_cache=False, output_attentions=True).attentions
    live.model.set_attn_implementation(usual)
    for layer in range(2):
        found = weights(live.layout, capture, layer, real)
        assert torch.allclose(found, wanted[layer] * real[:, None, :, None], atol=1e-6)
        assert torch.allclose(found.sum(-1)[real[:, None].expand(-1, 2, -1)], torch.tensor(1.0), atol=1e-5)


def by_hand(live: LiveModel, capture: Capture, layer: int, row: int, among: Tensor) -> Tensor:
    """(T, T) softmax(QK^T / sqrt(d_head)) over the positions `among`, mean over heads, written out."""
    module = live.layout.attentions[layer]
    args, kwargs = capture.attention_calls[layer]
    hidden = (args[0] if args else kwargs["hidden_states"])[row]
    q, k = (p(hidden).view(len(hidden), 2, 16).transpose(0, 1) for p in (module.q_proj, module.k_proj))
    if "position_embeddings" in kwargs:  # rotary
        cos, sin = (t[min(row, len(t) - 1)] for t in kwargs["position_embeddings"])
        q, k = (x * cos + torch.cat([-x[..., 8:], x[..., :8]], -1) * sin for x in (q, k))
    out = torch.zeros(len(hidden), len(hidden))
    for i in among.nonzero()[:, 0].tolist():
        for head in range(2):
            scores = torch.stack([q[head, i] @ k[head, j] for j in among.nonzero()[:, 0]]) / math.sqrt(16)
            out[i, among] += scores.softmax(-1) / 2
    return out


@pytest.mark.parametrize("prompt_only", [False, True])
def test_the_form_without_a_mask_is_the_plain_softmax(live: LiveModel, picture: Any, prompt_only: bool) -> None:
    batch = two_rows(live, picture)
    among = batch.roles != PAD
    if prompt_only:
        among &= torch.arange(among.shape[1])[None] < torch.tensor(batch.starts)[:, None]
    capture = passed(live, batch)
    for layer in range(2):
        found = weights(live.layout, capture, layer, among, causal=False).mean(1)
        for row in range(2):
            with torch.no_grad():
                expected = by_hand(live, capture, layer, row, among[row])
            assert torch.allclose(found[row], expected, atol=1e-5)
        assert float(found.triu(1).max()) > 0.01, "it does look ahead"


def hooked(live: LiveModel) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in live.model.modules())


def test_the_models_own_attention_and_its_hooks_are_left_as_they_were(live: LiveModel, picture: Any) -> None:
    batch = two_rows(live, picture)
    attended = live.layout.attentions[0]
    usual, hooks = attended.config._attn_implementation, hooked(live)
    assert usual == "sdpa"
    capture = passed(live, batch)
    with torch.no_grad(), tracing(live.layout) as plain:
        live.forward(batch)
    assert torch.equal(capture.norm_out, plain.norm_out) and not plain.attention_calls
    weights(live.layout, capture, 0, batch.roles != PAD, causal=False)
    assert attended.config._attn_implementation == usual
    assert hooked(live) == hooks  # transformers' own, if any


def test_saliency_is_attention_times_its_derivative(live: LiveModel, picture: Any) -> None:
    """By central differences: the attention module's output changes by what one weight more or less adds."""
    batch = two_rows(live, picture)
    capture = passed(live, batch, grad=True)
    last = torch.tensor(batch.starts) - 1
    rows = torch.arange(2)
    y = live.logits(capture.norm_out[rows, last]).log_softmax(-1)[:, 5]
    grads = torch.autograd.grad(y.sum(), [capture.attention_out[layer] for layer in range(2)])
    real = batch.roles != PAD
    for layer in range(2):
        found = last_saliency(live.layout, capture, layer, real, last, grads[layer])
        attended = weights(live.layout, capture, layer, real)
        module = live.layout.attentions[layer]
        args, kwargs = capture.attention_calls[layer]
        out_proj = getattr(module, "o_proj", None) or module.out_proj
        for row in range(2):
            values = module.v_proj((args[0] if args else kwargs["hidden_states"])[row].detach()).view(-1, 2, 16)
            expected = torch.zeros(values.shape[0])
            for position in range(int(last[row]) + 1):
                for head in range(2):
                    written = out_proj.weight[:, head * 16 : head * 16 + 16] @ values[position, head]
                    slope = grads[layer][row, last[row]] @ written  # dy / dA[head, last, position]
                    expected[position] += attended[row, head, last[row], position] * slope
            assert float(expected.abs().max()) > 1e-4
            assert torch.allclose(found[row], expected.abs(), atol=1e-5)


def test_value_norms_are_lengths_by_head(live: LiveModel, picture: Any) -> None:
    batch = two_rows(live, picture)
    capture = passed(live, batch)
    args, kwargs = capture.attention_calls[1]
    module = live.layout.attentions[1]
    values = module.v_proj(args[0] if args else kwargs["hidden_states"])
    found = value_norms(live.layout, capture, 1)
    assert found.shape == (2, 2, batch.roles.shape[1])
    for head in range(2):
        assert torch.allclose(found[:, head], values[..., head * 16 : head * 16 + 16].norm(dim=-1), atol=1e-5)


def test_what_cannot_be_read_is_refused(random_llava: Any, picture: Any) -> None:
    live = LiveModel(*random_llava(seed=4), name="other")
    batch = two_rows(live, picture)
    real = batch.roles != PAD
    with torch.no_grad(), tracing(live.layout) as capture:
        live.forward(batch)
    with pytest.raises(Unsupported, match="trace with attention=True"):
        weights(live.layout, capture, 0, real)
    capture = passed(live, batch)
    module = live.layout.attentions[0]
    plain = type(module).forward

    def silent(hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> tuple[Tensor, None]:
        return plain(module, hidden_states, attention_mask=attention_mask, **kwargs)[0], None

    module.forward = silent
    with pytest.raises(Unsupported, match="does not return its attention weights"):
        weights(live.layout, capture, 0, real)
    module.forward = lambda hidden_states: (hidden_states,)
    with pytest.raises(Unsupported, match="takes no attention mask"):
        weights(live.layout, capture, 0, real)
    del module.forward
    module.sliding_window = 3
    capture.attention_calls[0][1]["attention_mask"] = None
    with pytest.raises(Unsupported, match="attends to a window"):
        weights(live.layout, capture, 0, real)
    del module.v_proj
    with pytest.raises(Unsupported, match="no value projection"):
        value_norms(live.layout, capture, 0)
