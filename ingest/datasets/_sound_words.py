"""The words for the small world's sounds: noises, captions, ways to ask, and words that stand for a sound."""

from __future__ import annotations

import random
from collections.abc import Sequence

from ingest.datasets._world import FACTS, ORDER, SLOTS, THINGS, Thing, picture_questions, with_article, with_openings

SOUNDING = tuple(thing for thing in THINGS if thing.kind in ("animal", "vehicle"))
NOISES = ("wind", "rain", "hum", "hiss")
SOUND_TASKS = ("caption", "name", *FACTS, "kind")

ALONE, THEN, AND = "alone", "then", "and"
"""How a recording's things follow each other: one thing alone, one after another, or the second within the first."""

# Questions that mention seeing need other words for sounds; all others are the same.
_HEARD = {
    "name": ("what is this?", "what makes this sound?", "which thing do you hear?", "name the thing in the recording."),
    "caption": ("describe the recording.", "what is in the recording?", "write a caption.", "what do you hear?"),
}


def sound_questions(task: str, split: str) -> tuple[str, ...]:
    """Ways to ask `task` of a recording; see `_world.wordings` for the splits."""
    return with_openings(_HEARD[task], split) if task in _HEARD else picture_questions(task, split)


def sound_caption(names: Sequence[str], manner: str, noise: str) -> str:
    """The caption of one or two things in the order in which they begin.

    >>> sound_caption(["dog"], ALONE, "rain"), sound_caption(["dog", "cat"], THEN, "hum")
    ('a dog over the rain', 'a dog then a cat over the hum')
    """
    return f" {manner} ".join(map(with_article, names)) + f" over the {noise}"


def stretches(rng: random.Random, manner: str) -> list[tuple[float, float]]:
    """(start, end) of each thing, as fractions of the recording; each is heard by itself for a while."""
    if manner == ALONE:
        spans = [(0.0, rng.uniform(0.45, 0.75))]
    elif manner == THEN:
        first = rng.uniform(0.3, 0.42)
        second = first + rng.uniform(0.03, 0.1)
        spans = [(0.0, first), (second, second + rng.uniform(0.3, 0.42))]
    else:
        later = rng.uniform(0.22, 0.3)
        spans = [(0.0, rng.uniform(0.4, 0.5)), (later, later + rng.uniform(0.42, 0.55))]
    begin = rng.uniform(0.02, 0.98 - spans[-1][1])
    return [(begin + start, begin + end) for start, end in spans]


def sound_context(rng: random.Random, things: Sequence[Thing], manner: str, noise: str) -> list[tuple[str, ...]]:
    """Words for each of SLOTS slots that stand in place of a recording's tokens: (sign, order) of each thing heard
    there, with AND where both are, or the noise alone where no thing is heard. Things have pauses."""
    slots: list[list[str]] = [[] for _ in range(SLOTS)]
    spans = [(round(start * SLOTS), round(end * SLOTS)) for start, end in stretches(rng, manner)]
    for thing, order, (first, last) in zip(things, ORDER, spans, strict=False):
        for place in range(first, last):
            if place in (first, last - 1) or rng.random() < 0.75:
                slots[place] += [rng.choice(thing.signs), order]
    if manner == AND:
        for words in slots[spans[1][0] : spans[0][1]]:
            words += [AND] if words else []
    return [tuple(words) or (noise,) for words in slots]


def sound_texts() -> list[str]:
    """Texts with every word used about sounds, for `_world.vocabulary`."""
    return [*(question for wordings in _HEARD.values() for question in wordings), *NOISES, f"{THEN} {AND} over the"]
