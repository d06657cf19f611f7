"""What tests of attribution methods share: items about a dog, a cat and a hot dog, and one pass by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

import ingest.methods
from atlas import registry
from atlas.live.affine import affine
from atlas.live.encode import Prompt
from atlas.live.hooks import editing, tracing
from atlas.live.model import LiveModel
from ingest.attribution.estimators import GRADIENT, Method, NeuronMap
from ingest.attribution.trace import Item, traced
from ingest.data.examples import Concept, Example, Mention
from ingest.data.targets import find_targets

CONCEPTS = {
    "dog": Concept("dog", ("dog", "dogs")),
    "cat": Concept("cat", ("cat", "cats")),
    "hot dog": Concept("hot dog", ("hot dog", "hot dogs")),
}
ANSWERS = ["a dog", "a red cat", "two dogs and a cat", "one hot dog", "a dog and a hot dog", "dog", "a cat", "red dog"]


def build(name: str, **parameters: Any) -> Method:
    return registry.load(ingest.methods, name).build(**parameters)  # type: ignore[no-any-return]


def make_items(
    live: LiveModel,
    picture: Any = None,
    answers: Sequence[str] = ANSWERS,
    twins: Sequence[Any] = (),
    turn: int = 0,
    **rule: str,
) -> list[Item]:
    """twins: the counterfactual pictures, the same for every concept. turn: degrees from one picture to the next."""
    items = []
    for number, answer in enumerate(answers):
        shown = [picture.rotate(turn * number)] if picture else []
        prompt = live.encoder.prompt("what is this ?", shown, answer)
        mentions = tuple(Mention(name) for name in CONCEPTS)
        example = Example("text", "name", "find", "what is this ?", answer, mentions)
        decoded = live.encoder.decode(prompt.answer)
        ends = live.encoder.ends(prompt.answer)
        targets = find_targets(example, decoded, ends, CONCEPTS, list(CONCEPTS), **rule)
        others = [live.encoder.prompt("what is this ?", [twin], answer) for twin in twins]
        of = {t.concept: tuple(Prompt(prompt.ids, prompt.answer, o.extras) for o in others) for t in targets}
        items.append(Item(number, prompt, tuple(targets), of if twins else {}))
    return items


def feed(method: Method, live: LiveModel, batches: Sequence[Sequence[Item]], source: str = "text") -> Method:
    for items in batches:
        with traced(live, items, source, layers=None, tap="product", grad=GRADIENT in method.needs) as trace:
            method.update(trace)
    return method


def maps_of(method: Method) -> dict[tuple[str | None, ...], NeuronMap]:
    """By (concept, reduction); with the part behind them where a map is a part."""
    return {(m.concept, m.reduce, m.part) if m.part else (m.concept, m.reduce): m for m in method.result()}


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
