"""What tests of attribution methods share beside `atlas.testing.attribution`: methods by name, and one pass by hand."""

from __future__ import annotations

from typing import Any

import torch

import ingest.methods
from atlas import registry
from atlas.live.affine import affine
from atlas.live.hooks import editing, tracing
from atlas.live.model import LiveModel
from atlas.testing.attribution import ANSWERS, CONCEPTS, feed, make_items, maps_of
from ingest.attribution.estimators import Method
from ingest.attribution.item import Item

__all__ = ["ANSWERS", "CONCEPTS", "build", "by_hand", "feed", "log_probability", "make_items", "maps_of", "scaled"]


def build(name: str, **parameters: Any) -> Method:
    return registry.load(ingest.methods, name).build(**parameters)  # type: ignore[no-any-return]


def by_hand(live: LiveModel, item: Item) -> tuple[Any, dict[str, list[tuple[int, int, float]]]]:
    """One item's own pass, and for each concept its (predicting position, token, weight)."""
    batch = live.batch([item.prompt])
    with torch.no_grad(), tracing(live.layout) as capture:
        live.forward(batch)
    places: dict[str, list[tuple[int, int, float]]] = {}
    for t in item.targets:
        at = batch.starts[0] + t.index
        places.setdefault(t.concept, []).append((at - 1, int(batch.inputs["input_ids"][0, at]), t.weight))
    return capture, places


def log_probability(live: LiveModel, item: Item, concept: str) -> float:
    capture, places = by_hand(live, item)
    total = 0.0
    for position, token, weight in places[concept]:
        total += weight * float(live.logits(capture.norm_out[0, position]).log_softmax(-1)[token])
    return total


def scaled(live: LiveModel, item: Item, concept: str, layer: int, neuron: int, gain: float) -> float:
    rule = affine(torch.tensor([neuron]), torch.tensor([gain]), torch.zeros(1))
    with editing(live.layout, {layer: rule}):
        return log_probability(live, item, concept)
