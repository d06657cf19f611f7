"""Shares, rates and means by role against plain loops, and the labels against the rule as it is stated."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from atlas.errors import UsageError
from atlas.live.encode import ROLES
from atlas.live.hooks import tracing
from atlas.live.model import LiveModel
from atlas.store.arrow_types import arrow_schema
from atlas.store.schema import labels
from ingest.attribution.item import Item
from ingest.attribution.labels import Labelling, labels_table
from ingest.attribution.trace import traced
from ingest.data.targets import Target
from ingest.methods.modality_profile import ModalityProfile, build


def items_of(live: LiveModel, pictures: list[Any]) -> list[Item]:
    texts = ["<s>what is this ?", "describe the picture", "is this a dog or a red cat ?"]
    prompts = [live.encoder.prompt(t, [p] if p else [], "a dog") for t, p in zip(texts, pictures, strict=True)]
    return [Item(i, prompt, (Target("dog", 1, 1.0),)) for i, prompt in enumerate(prompts)]


def feed(live: LiveModel, *batches: list[Item], threshold: float = 0.75) -> ModalityProfile:
    method = build(threshold=threshold)
    for items in batches:
        with traced(live, items, "image", layers=None, tap="product", grad=False) as trace:
            method.update(trace)
    return method


def by_hand(live: LiveModel, items: list[Item]) -> dict[str, torch.Tensor]:
    """role -> (positions, 2, 64) of all the examples' prompts."""
    out: dict[str, list[torch.Tensor]] = {}
    for item in items:
        batch = live.batch([item.prompt])
        with torch.no_grad(), tracing(live.layout) as capture:
            live.forward(batch)
        for t in range(batch.starts[0]):
            values = torch.stack([capture.values[layer][0, t] for layer in range(2)])
            out.setdefault(ROLES[int(batch.roles[0, t])], []).append(values)
    return {role: torch.stack(values) for role, values in out.items()}


def test_shares_rates_and_means_equal_plain_loops(llava: LiveModel, picture: Any) -> None:
    items = items_of(llava, [picture, None, picture])
    found = {(m.part, m.source): m for m in feed(llava, items).result()}
    values = by_hand(llava, items)
    mass = {role: v.abs().mean(0) for role, v in values.items()}
    assert {role for _, role in found} == set(values) == {"text", "special", "image"}
    for role, v in values.items():
        assert torch.allclose(found["mean", role].scores, v.mean(0), atol=1e-5)
        assert torch.allclose(found["rate", role].scores, (v > 0).float().mean(0), atol=1e-6)
        assert torch.allclose(found["share", role].scores, mass[role] / sum(mass.values()), atol=1e-5)
        assert found["share", role].examples == len(v)


def test_labels_follow_the_stated_rule(llava: LiveModel, picture: Any) -> None:
    items = items_of(llava, [picture, None, picture])
    method = feed(llava, items, threshold=0.6)
    assert isinstance(method, Labelling)
    rows = labels_table("r", method.labels())
    assert rows.schema == arrow_schema(labels)
    mass = {role: v.abs().mean(0) for role, v in by_hand(llava, items).items()}
    share = mass["image"] / (mass["image"] + mass["text"])
    got = {(r["layer"], r["neuron"]): r for r in rows.to_pylist()}
    assert len(got) == rows.num_rows == 128, "every neuron has exactly one label"
    for (layer, neuron), row in got.items():
        s = float(share[layer, neuron])
        assert row["label"] == ("visual" if s >= 0.6 else "text" if s <= 0.4 else "multimodal")
        assert row["score"] == pytest.approx(max(s, 1 - s), abs=1e-5)
        assert row["rule"] == "modality_profile: at least 0.6 of mean |value| over text, visual tokens"
    assert len({row["label"] for row in got.values()}) == 3


def test_a_silent_neuron_has_no_label_and_text_alone_labels_nothing(opt: LiveModel, llava: LiveModel) -> None:
    prompts = [opt.encoder.prompt("what is this ?", answer="a dog")]
    items = [Item(0, prompts[0], (Target("dog", 1, 1.0),))]
    assert list(feed(opt, items).labels()) == []
    method = build()
    for name in method.sums:  # neuron 1 is zero at every position of both roles
        for role in ("text", "image"):
            method.sums[name].add(role, torch.tensor([[2.0, 0.0, 8.0 if role == "image" else 0.5]]), 2)
        method.sums[name].layers = (4,)
    shares = method.shares()["image"]
    assert torch.isnan(shares[0, 1]) and float(shares[0, 0]) == 0.5
    table = labels_table("r", method.labels()).to_pylist()
    assert [(r["layer"], r["neuron"], r["label"]) for r in table] == [(4, 0, "multimodal"), (4, 2, "visual")]


def test_a_merge_is_one_pass(llava: LiveModel, picture: Any) -> None:
    items = items_of(llava, [picture, None, picture])
    whole, merged = feed(llava, items), build()
    for part in (items[2:], items[:2]):
        merged.merge(feed(llava, part).state())
    for one, other in zip(whole.result(), merged.result(), strict=True):
        assert (one.part, one.source, one.examples) == (other.part, other.source, other.examples)
        assert torch.allclose(one.scores, other.scores, atol=1e-6)
    for mine, theirs in zip(whole.labels(), merged.labels(), strict=True):
        assert np.array_equal(mine.neurons, theirs.neurons)


@pytest.mark.parametrize("threshold", [0.5, 1.2, float("nan")])
def test_a_threshold_that_tells_nothing_apart_is_refused(threshold: float) -> None:
    with pytest.raises(UsageError, match="it must be above 0.5"):
        build(threshold=threshold)
