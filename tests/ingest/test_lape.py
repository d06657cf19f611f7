"""Activation rates by role and by input against a plain count."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from atlas.live.encode import ROLES
from atlas.live.hooks import tracing
from atlas.live.model import LiveModel
from ingest.attribution.estimators import NeuronMap
from ingest.attribution.item import Item
from ingest.attribution.trace import traced
from ingest.data.targets import Target
from ingest.methods.lape import Lape, build

Fed = Sequence[tuple[str, Sequence[Item]]]


def make(live: LiveModel, picture: Any) -> Fed:
    def item(number: int, text: str, *pictures: Any) -> Item:
        return Item(number, live.encoder.prompt(text, list(pictures), "a dog"), (Target("dog", 1, 1.0),))

    shown = [picture] if picture is not None else []
    seen = [item(0, "<s>what is this ?", *shown), item(1, "describe the picture", *shown)]
    return [("image", seen), ("text", [item(2, "is a dog</s> a red cat ?"), item(3, "what ?")])]


def feed(batches: Fed, live: LiveModel) -> Lape:
    method = build()
    for source, items in batches:
        with traced(live, items, source, layers=None, tap="product", grad=False) as trace:
            method.update(trace)
    return method


def maps_of(method: Lape) -> dict[tuple[str, str], NeuronMap]:
    return {(m.part, m.source): m for m in method.result()}


def counted(live: LiveModel, fed: Fed) -> dict[tuple[str, str], tuple[torch.Tensor, int]]:
    """Position by position: how often each neuron is above zero, and how many positions there are."""
    out: dict[tuple[str, str], tuple[torch.Tensor, int]] = {}
    for source, items in fed:
        for item in items:
            batch = live.batch([item.prompt])
            with torch.no_grad(), tracing(live.layout) as capture:
                live.forward(batch)
            for t in range(batch.starts[0]):
                fires = torch.stack([capture.values[layer][0, t] > 0 for layer in range(2)]).double()
                role = ROLES[int(batch.roles[0, t])]
                keys = [("role", role), ("role", "prompt"), ("input", source)]
                if role in ("text", "special"):
                    keys.append(("role", "special_text"))
                for key in keys:
                    total, count = out.get(key, (torch.zeros(2, 64).double(), 0))
                    out[key] = (total + fires, count + 1)
    return out


@pytest.mark.parametrize("name", ["llava", "opt"])
def test_rates_equal_a_plain_count(name: str, request: pytest.FixtureRequest, picture: Any) -> None:
    live = request.getfixturevalue(name)
    fed = make(live, picture) if name == "llava" else make(live, picture=None)[1:]
    found, wanted = maps_of(feed(fed, live)), counted(live, fed)
    assert found.keys() == wanted.keys()
    for key, (total, count) in wanted.items():
        assert found[key].examples == count
        assert torch.allclose(found[key].scores, (total / count).float(), atol=1e-6), key


def test_a_merge_is_one_pass(llava: LiveModel, picture: Any) -> None:
    fed = make(llava, picture)
    whole, merged = maps_of(feed(fed, llava)), build()
    for part in (fed[1:], fed[:1]):
        merged.merge(feed(part, llava).state())
    for key, found in maps_of(merged).items():
        assert torch.equal(found.scores, whole[key].scores) and found.examples == whole[key].examples
