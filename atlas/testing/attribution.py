"""Examples for checks of attribution methods: eight answers about a dog, a cat and a hot dog."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from atlas.live.encode import Prompt
from atlas.live.grid.heatmap import Mask
from atlas.live.grid.token_grids import grids
from atlas.live.model import LiveModel
from ingest.attribution.estimators import GRADIENT, Method, NeuronMap
from ingest.attribution.item import Item, Region
from ingest.attribution.trace import ATTENTION, traced
from ingest.data.examples import Concept, Example, Mention
from ingest.data.targets import find_targets

CONCEPTS = {
    "dog": Concept("dog", ("dog", "dogs")),
    "cat": Concept("cat", ("cat", "cats")),
    "hot dog": Concept("hot dog", ("hot dog", "hot dogs")),
}
ANSWERS = ["a dog", "a red cat", "two dogs and a cat", "one hot dog", "a dog and a hot dog", "dog", "a cat", "red dog"]


def make_items(
    live: LiveModel,
    picture: Any = None,
    answers: Sequence[str] = ANSWERS,
    twins: Sequence[Any] = (),
    turn: int = 0,
    regions: Sequence[Mask] = (),
    **rule: str,
) -> list[Item]:
    """One encoded item for each answer, whose targets are the words of CONCEPTS in it.

    twins: the counterfactual pictures, the same for every concept. turn: degrees from one picture to the next. regions:
    where every picture shows each concept, and where another does. rule: which occurrences and tokens count
    (`ingest.data.targets`).
    """
    items = []
    for number, answer in enumerate(answers):
        shown = [picture.rotate(turn * number)] if picture else []
        prompt = live.encoder.prompt("what is this ?", shown, answer)
        mentions = tuple(Mention(name) for name in CONCEPTS)
        example = Example("text", "name", "find", "what is this ?", answer, mentions)
        decoded = live.encoder.decode(prompt.answer)
        ends = live.encoder.ends(prompt.answer)
        targets = find_targets(example, decoded, ends, CONCEPTS, list(CONCEPTS), **rule)
        twin_prompts = [live.encoder.prompt("what is this ?", [twin], answer) for twin in twins]
        counterfactuals = {
            t.concept: tuple(Prompt(prompt.ids, prompt.answer, o.extras) for o in twin_prompts) for t in targets
        }
        placed = (Region(tuple(grids(live.encoder, prompt, live.model.config)), *regions),) if regions else ()
        places = {t.concept: placed for t in targets} if regions else {}
        items.append(Item(number, prompt, tuple(targets), counterfactuals if twins else {}, regions=places))
    return items


def feed(method: Method, live: LiveModel, batches: Sequence[Sequence[Item]], source: str = "text") -> Method:
    """The method after one pass over each batch."""
    for items in batches:
        with traced(live, items, source, layers=None, tap="product", **passes(method)) as trace:
            method.update(trace)
    return method


def passes(method: Method) -> dict[str, Any]:
    """What a method needs from the pass, as arguments of `traced`."""
    return {"grad": GRADIENT in method.needs, "attention": ATTENTION in method.needs}


def maps_of(method: Method) -> dict[tuple[str | None, ...], NeuronMap]:
    """A method's maps by (concept, reduction), or (concept, reduction, part) where a map is a part."""
    return {(m.concept, m.reduce, m.part) if m.part else (m.concept, m.reduce): m for m in method.result()}
