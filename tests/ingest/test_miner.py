"""MINER's importance scores against the published algorithm, written out in its plain and slow form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from atlas.errors import UsageError
from atlas.live.encode import ROLES
from atlas.live.model import LiveModel
from ingest.attribution.estimators import NeuronMap
from ingest.attribution.item import Item
from ingest.attribution.miner_weights import METRICS, PRESETS, parse_weights
from ingest.attribution.trace import ATTENTION, Trace, traced
from ingest.data.targets import Target
from ingest.methods.miner import Miner, attention_weights, build, min_max

ASKED = ["<s>what is this ?", "<s>describe the</s> picture", "<s>is this a dog or a red cat ?", "<s>what ?"]


def make_items(live: LiveModel, pictures: Sequence[Any]) -> list[Item]:
    prompts = [
        live.encoder.prompt(text, [picture] if picture else [], "a dog and a hot dog"[: 5 + 4 * i])
        for i, (text, picture) in enumerate(zip(ASKED, pictures, strict=False))
    ]
    return [Item(i, prompt, (Target("dog", 1, 1.0),)) for i, prompt in enumerate(prompts)]


def feed(method: Miner, live: LiveModel, batches: Sequence[Sequence[Item]]) -> Miner:
    for items in batches:
        asked = {"layers": None, "tap": "gate", "grad": False, "attention": ATTENTION in method.needs}
        with traced(live, items, "image", **asked) as trace:  # type: ignore[arg-type]
            method.update(trace)
    return method


def maps_of(method: Miner) -> dict[tuple[str, str], NeuronMap]:
    found = list(method.result())
    assert all(m.concept is None and m.target == "text" and m.reduce == "mean" for m in found)
    return {(m.source, m.part): m for m in found}


# The published algorithm, sample by sample, layer by layer, modality by modality.


def published_normalise(values: Tensor) -> Tensor:
    return (values - values.min()) / (values.max() - values.min())


def published_layer(values: Tensor, attended: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """values: (T, N). attended: (T, T) head means without a causal mask. mask: (T,) the modality's positions."""
    x = values[mask]
    b = attended[mask][:, mask]
    raw = {
        "prob": (x > 0).sum(0) / len(x),
        "mean": x.mean(0),
        "max": x.max(0).values,
        "attn_k": (b.softmax(0).T @ x).sum(0),
        "attn_q": (b.softmax(1) @ x).sum(0),
    }
    return {name: published_normalise(value) for name, value in raw.items()}


def published_masks(trace: Trace, row: int) -> dict[str, Tensor]:
    roles = trace.batch.roles[row, : trace.batch.starts[row]]
    masks = {role: roles == i for i, role in enumerate(ROLES) if role != "pad"}
    masks |= {"special_text": masks["text"] | masks["special"], "prompt": torch.ones_like(masks["text"])}
    return {role: mask for role, mask in masks.items() if bool(mask.any())}


def published_sample(live: LiveModel, item: Item) -> dict[str, Tensor]:
    """role -> (metrics, L, N). Only the prompt goes through the model, as when it starts to answer."""
    alone = Item(0, item.prompt.answered(()), item.targets)
    out: dict[str, list[Tensor]] = {}
    with torch.no_grad():
        batch = live.batch([alone.prompt])
        from atlas.live.hooks import tracing

        with tracing(live.layout, tap="gate", attention=True) as capture:
            live.forward(batch)
        trace = Trace(live, batch, capture, [item], "image", "gate")
        for layer in range(2):
            attended = trace.attention(layer, causal=False)[0]
            for role, mask in published_masks(trace, 0).items():
                found = published_layer(trace.values(layer)[0], attended, mask)
                out.setdefault(role, []).append(torch.stack([found[m] for m in METRICS]))
    return {role: torch.stack(layers, 1) for role, layers in out.items()}


@pytest.mark.parametrize("name", ["llava", "opt"])
def test_the_scores_are_the_published_ones(name: str, request: pytest.FixtureRequest, picture: Any) -> None:
    """In a batch with padding and behind it the answer, against one prompt at a time."""
    live = request.getfixturevalue(name)
    items = make_items(live, [picture if name == "llava" else None] * 4)
    found = maps_of(feed(build(attention=True), live, [items]))
    samples = [published_sample(live, item) for item in items]
    roles = {"text", "special", "special_text", "prompt"} | ({"image"} if name == "llava" else set())
    assert {role for role, _ in found} == roles
    for role in roles:
        wanted = torch.stack([s[role] for s in samples]).mean(0)
        assert bool(wanted.isfinite().all())
        for m, metric in enumerate(METRICS):
            assert torch.allclose(found[role, metric].scores, wanted[m], atol=2e-5), (role, metric)
        assert torch.allclose(found[role, ""].scores, 0.25 * wanted[1] + 0.25 * wanted[2] + 0.5 * wanted[3], atol=2e-5)
        assert found[role, ""].examples == 4
        # Every example's layer reaches 1 somewhere, so their mean lies between.
        assert float(wanted.min()) >= 0 and float(wanted.max()) <= 1


def test_an_example_without_the_modality_does_not_count_for_it(llava: LiveModel, picture: Any) -> None:
    items = make_items(llava, [picture, None, picture, None])
    found = maps_of(feed(build(attention=True), llava, [items]))
    assert found["image", "mean"].examples == 2 and found["text", "mean"].examples == 4
    samples = [published_sample(llava, item) for item in items]
    wanted = torch.stack([s["image"] for s in samples if "image" in s]).mean(0)
    assert torch.allclose(found["image", "max"].scores, wanted[2], atol=2e-5)


@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize("normalise", ["published", "none"])
def test_batches_and_merges_change_nothing(attention: bool, normalise: str, llava: LiveModel, picture: Any) -> None:
    items = make_items(llava, [picture, None, picture, picture])

    def make() -> Miner:
        return build(attention=attention, normalise=normalise)

    whole = maps_of(feed(make(), llava, [items]))
    merged = make()
    for part in (items[3:], items[1:3], items[:1]):
        merged.merge(feed(make(), llava, [part]).state())
    for other in (maps_of(merged), maps_of(feed(make(), llava, [items[:2], items[2:]]))):
        assert other.keys() == whole.keys()
        for key, found in other.items():
            assert found.examples == whole[key].examples
            assert torch.allclose(found.scores, whole[key].scores, atol=1e-4, rtol=1e-4), key


def test_memory_does_not_grow_with_the_examples(llava: LiveModel, picture: Any) -> None:
    items = make_items(llava, [picture] * 4)
    method = feed(build(), llava, [items])
    once = {name: value.shape for name, value in method.state().items()}
    feed(method, llava, [items, items])
    assert {name: value.shape for name, value in method.state().items()} == once
    assert maps_of(method)["image", ""].examples == 12


def test_without_normalisation_the_scores_are_in_the_values_own_units(llava: LiveModel, picture: Any) -> None:
    items = make_items(llava, [picture])
    found = maps_of(feed(build(normalise="none"), llava, [items]))
    with traced(llava, items, "image", layers=None, tap="gate", grad=False) as trace:
        mask = published_masks(trace, 0)["image"]
        values = torch.stack([trace.values(layer)[0, : trace.batch.starts[0]][mask] for layer in range(2)])
    assert torch.allclose(found["image", "mean"].scores, values.mean(1), atol=1e-6)
    assert torch.allclose(found["image", "max"].scores, values.amax(1), atol=1e-6)
    assert torch.allclose(found["image", "prob"].scores, (values > 0).float().mean(1), atol=1e-6)


def test_a_constant_layer_has_no_importance_and_no_nan() -> None:
    values = torch.tensor([[3.0, 3.0, 3.0], [1.0, 2.0, 5.0]])
    assert torch.equal(min_max(values), torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.25, 1.0]]))


def test_the_vector_form_is_the_matrix_form() -> None:
    generator = torch.Generator().manual_seed(0)
    attended = torch.rand(2, 7, 7, generator=generator)
    masks = torch.rand(2, 3, 7, generator=generator) > 0.4
    masks[1, 2] = False
    values = torch.randn(2, 7, 5, generator=generator)
    found = attention_weights(attended, masks.float()) @ values[:, None]
    for b in range(2):
        for r in range(3):
            m = masks[b, r]
            x, a = values[b, m], attended[b][m][:, m]
            assert torch.allclose(found[b, r, 0], (a.softmax(0).T @ x).sum(0), atol=1e-5)
            assert torch.allclose(found[b, r, 1], (a.softmax(1) @ x).sum(0), atol=1e-5)


def test_weights_and_what_they_need() -> None:
    assert parse_weights("", attention=True) == PRESETS["published"] == (0, 0.25, 0.25, 0.5, 0)
    assert parse_weights("", attention=False) == PRESETS["mean_max"]
    assert parse_weights("1, 0,0,0,2", attention=True) == (1, 0, 0, 0, 2)
    assert build().needs == frozenset() and build(attention=True).needs == {ATTENTION}
    for text, message in (
        ("0,.25,.25,.5,0", "need attention; set miner.attention=true"),
        ("1,2", "no weights called '1,2'; give five numbers for prob,mean,max,attn_k,attn_q"),
        ("0,0,0,0,0", "no weights called"),
        ("1,nan,0,0,0", "no weights called"),
        ("halves", "or one of prob, mean, max"),
    ):
        with pytest.raises(UsageError, match=message):
            build(weights=text)
    with pytest.raises(UsageError, match="no normalise called 'zscore'"):
        build(normalise="zscore")
