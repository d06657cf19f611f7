"""Methods that restart a model behind a layer, on one that adds features of pictures between its layers: Qwen3-VL with
DeepStack behind the first two of its four layers, against whole forward passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import families
import pytest
import torch
from attribution import build, by_hand, feed, log_probability, make_items, scaled
from family_checks import pictures
from PIL import Image
from torch import Tensor

from atlas.errors import Unsupported
from atlas.live.edit.restart import check_additive, layer_output, resume
from atlas.live.edit.suffix import Suffix
from atlas.live.hooks import editing, shuffling, tracing
from atlas.live.model import LiveModel
from ingest.attribution.estimators import NeuronMap
from ingest.attribution.item import Item
from ingest.attribution.trace import traced

pytestmark = pytest.mark.filterwarnings("ignore")
LAYERS = 4


@pytest.fixture(scope="module")
def live() -> LiveModel:
    torch.manual_seed(0)
    return LiveModel(*families.qwen3_vl(LAYERS), name="deep")


@pytest.fixture
def picture() -> Image.Image:
    """Large enough for several tokens."""
    return pictures(1, 24, 32)[0]


def items_of(live: LiveModel, picture: Any) -> list[Item]:
    return make_items(live, picture, answers=["a dog"])


def dog(live: LiveModel, picture: Any, name: str, **options: Any) -> NeuronMap:
    """A method's map of pictures, after it has seen text alone."""
    method = feed(build(name, **options), live, [make_items(live)])
    return next(m for m in feed(method, live, [items_of(live, picture)], "image").result() if m.source == "image")


def test_what_is_added_between_layers_is_recorded(live: LiveModel, picture: Any) -> None:
    for shown, expected in ((None, []), (picture, [0, 1])):
        batch = live.batch([live.encoder.prompt("what is this ?", [shown] if shown else [], "a dog")])
        with torch.no_grad(), tracing(live.layout) as capture:
            live.forward(batch)
        assert list(capture.between) == expected
    seen = (batch.inputs["input_ids"] == live.encoder.role_of.media_ids["image"])[..., None]
    assert int(seen.sum()) > 4
    for added in capture.between.values():
        assert torch.equal(added != 0, seen.expand_as(added))


def test_a_second_pass_overwrites_what_was_added(live: LiveModel, picture: Any) -> None:
    with torch.no_grad(), tracing(live.layout) as capture:
        for shown in ([picture], []):
            live.forward(live.batch([live.encoder.prompt("what is this ?", shown, "a dog")]))
    assert not capture.between


def test_ablation_equals_the_naive_loop(live: LiveModel, picture: Any) -> None:
    [item] = items_of(live, picture)
    found = dog(live, picture, "ablation", tokens=200).scores
    clean = log_probability(live, item, "dog")
    expected = torch.tensor(
        [[clean - scaled(live, item, "dog", layer, n, 0.0) for n in range(0, 64, 4)] for layer in range(LAYERS)]
    )
    assert float(expected.abs().max()) > 0.01
    assert torch.allclose(found[:, ::4], expected, atol=2e-5)


@pytest.mark.parametrize("positions", ["predicting", "image", "all"])
def test_integrated_gradients_equal_whole_passes(live: LiveModel, picture: Any, positions: str) -> None:
    [item] = items_of(live, picture)
    options = {"steps": 3, "endpoints": "midpoint", "positions": positions}
    found = dog(live, picture, "integrated_gradients", **options) if positions != "image" else None
    if found is None:  # text has no image positions
        [found] = feed(build("integrated_gradients", **options), live, [[item]], "image").result()
    clean, places = by_hand(live, item)
    image = live.batch([item.prompt]).inputs["input_ids"][0] == live.encoder.role_of.media_ids["image"]
    [(at, token, weight)] = places["dog"]
    where = torch.ones_like(image)
    if positions != "all":
        where = image if positions == "image" else torch.arange(len(image)) == at
    for layer in range(LAYERS):
        total = torch.zeros_like(clean.values[layer])
        for scale in (1 / 6, 3 / 6, 5 / 6):
            total += path_gradient(live, item, layer, torch.where(where, scale, 1.0), (at, token)) * weight / 3
        expected = (clean.values[layer] * total * where[:, None])[0].sum(0)
        assert torch.allclose(found.scores[layer], expected, atol=1e-4, rtol=1e-3), layer


def path_gradient(live: LiveModel, item: Item, layer: int, scales: Tensor, at: tuple[int, int]) -> Tensor:
    """(1, T, N): the derivative of a token's log-probability by a layer's values, which are scaled by position."""
    kept: list[Tensor] = []

    def rule(values: Tensor) -> Tensor:
        kept.append((values.detach() * scales[:, None]).requires_grad_(True))
        return kept[-1]

    with torch.enable_grad(), editing(live.layout, {layer: rule}), tracing(live.layout) as capture:
        live.forward(live.batch([item.prompt]))
        assert capture.norm_out is not None
        logp = live.logits(capture.norm_out[0, at[0]]).log_softmax(-1)[at[1]]
        (found,) = torch.autograd.grad(logp, kept[-1])
    return found


def test_logprob_increase_equals_the_streams_by_hand(live: LiveModel, picture: Any) -> None:
    [item] = items_of(live, picture)
    found = dog(live, picture, "logprob_increase", query=False).scores
    before: dict[int, Tensor] = {}
    handles = [
        layer.post_attention_layernorm.register_forward_pre_hook(lambda _m, args, i=i: before.update({i: args[0]}))
        for i, layer in enumerate(live.layout.layers)
    ]
    try:
        clean, places = by_hand(live, item)
    finally:
        for handle in handles:
            handle.remove()
    [(at, token, weight)] = places["dog"]
    x = clean.norm_in[0, at]
    frozen = live.layout.norm.weight * (x.square().mean() + live.layout.norm.variance_epsilon).rsqrt()
    for layer in range(LAYERS):
        h, a = before[layer][0, at], clean.values[layer][0, at]
        start = live.logits(frozen * h).log_softmax(-1)[token]
        for n in range(0, 64, 4):
            raised = h + a[n] * live.layout.write_vectors(layer)[:, n]
            expected = weight * (live.logits(frozen * raised).log_softmax(-1)[token] - start)
            assert float(found[layer, n]) == pytest.approx(float(expected), abs=1e-4)


def test_a_restart_at_the_last_positions_has_the_picture_too(live: LiveModel, picture: Any) -> None:
    """From a position amid the picture's tokens on."""
    items = make_items(live, picture, answers=["a dog", "two dogs and a cat"])
    with torch.no_grad(), traced(live, items, "image", layers=None, tap="product", grad=False) as trace:
        image = trace.where("image").nonzero()[:, 1]
        begin = int(image.float().mean())
        suffix = Suffix(live.layout, trace.capture, begin)
        assert suffix.works and int(image.min()) < begin < int(image.max())
        rows = torch.tensor([1, 0, 1])
        hidden = layer_output(trace.capture, 0)[rows].clone()
        hidden[:, begin:] += torch.randn(hidden[:, begin:].shape, generator=torch.Generator().manual_seed(0))
        whole = resume(live.layout, trace.capture, 1, hidden, rows)
        part = suffix.resume(1, hidden[:, begin:], rows)
    real = trace.real[rows, begin:]
    assert torch.allclose(part[real], whole[:, begin:][real], atol=1e-5)


Behind = Callable[[Tensor], Tensor]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda stream: stream * 2, "changes its hidden states after layer 1"),
        (lambda stream: stream + torch.randn(()), "layer 0 does not give the same output when it is run again"),
    ],
)
def test_layers_that_cannot_be_run_again_are_refused(random_llava: Any, change: Behind, message: str) -> None:
    live = LiveModel(*random_llava(seed=5), name="odd")
    norm, layer = live.layout.norm, live.layout.layers[0]
    if "changes its hidden states" in message:
        plain = norm.register_forward_pre_hook(lambda _m, args: (change(args[0]),))
    else:
        plain = layer.register_forward_hook(lambda _m, _a, out: change(out))
    try:
        with traced(live, make_items(live), "text", layers=None, tap="product", grad=False) as trace:
            with pytest.raises(Unsupported, match=message) as refusal:
                check_additive(live.layout, trace.capture, 0)
            assert "use gradient_x_activation" in str(refusal.value)
    finally:
        plain.remove()


def test_shuffled_tokens_take_along_what_is_added_for_them(live: LiveModel, picture: Any) -> None:
    batch = live.batch([live.encoder.prompt("what is this ?", [picture], "a dog")])
    image = (batch.roles[0] == 3).nonzero()[:, 0]
    order = torch.arange(batch.roles.shape[1])[None].clone()
    order[0, image] = image.flip(0)
    with torch.no_grad(), tracing(live.layout) as plain:
        live.forward(batch)
    with torch.no_grad(), shuffling(live.layout, order), tracing(live.layout) as moved:
        live.forward(batch)
    assert list(moved.between) == [0, 1]
    for layer, added in moved.between.items():
        assert torch.allclose(added, plain.between[layer][:, order[0]], atol=1e-5)
