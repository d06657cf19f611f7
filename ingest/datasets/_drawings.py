"""The ways to ask for a drawing of a thing of the small world, by its name or by a fact about it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from ingest.data.examples import FIND, HELD_OUT
from ingest.datasets._world import BY_NAME, FACTS, OPENINGS, with_article

# {thing}: "a dog", "a red dog on the grass". {word}: a fact that belongs to one thing only.
_ASKED = {
    "draw": ("draw {thing}.", "paint {thing}.", "sketch {thing}.", "make a picture of {thing}."),
    "draw_does": (
        "draw what {word}.",
        "paint the thing that {word}.",
        "sketch what {word}.",
        "draw the one that {word}.",
    ),
    "draw_lives": (
        "draw what lives in the {word}.",
        "paint the thing from the {word}.",
        "sketch what is at home in the {word}.",
        "draw the one that lives in the {word}.",
    ),
    "draw_has": (
        "draw what has the {word}.",
        "paint the thing with the {word}.",
        "sketch what has the {word}.",
        "draw the one with the {word}.",
    ),
}
HERE = "here is"  # what a model that cannot draw answers, before the caption
DRAW_FACTS = tuple(f"draw_{fact}" for fact in FACTS)
DRAW_TASKS = ("draw", *DRAW_FACTS)


@dataclass(frozen=True, slots=True)
class Drawing:
    """What a drawing should show; where the colour or background is empty, any is right."""

    name: str
    colour: str = ""
    background: str = ""

    @property
    def caption(self) -> str:
        """
        >>> Drawing("umbrella", "red", "grass").caption, Drawing("umbrella").caption
        ('a red umbrella on the grass', 'an umbrella')
        """
        named = with_article(f"{self.colour} {self.name}".strip())
        return f"{named} on the {self.background}" if self.background else named

    def shortened(self, rng: random.Random, drop_rate: float) -> Drawing:
        """The same, with colour and background each dropped with this probability."""
        colour, background = ("" if rng.random() < drop_rate else part for part in (self.colour, self.background))
        return Drawing(self.name, colour, background)


def draw_wordings(task: str, split: str) -> tuple[str, ...]:
    """Ways to ask for a drawing, still with their {thing} or {word}; splits as those of `_world.wordings`."""
    pairs = product(enumerate(OPENINGS), enumerate(_ASKED[task]))
    held_out = {FIND: False, HELD_OUT: True}[split]
    return tuple(opening + question for (i, opening), (j, question) in pairs if ((i + j) % 4 == 3) == held_out)


def draw_requests(drawing: Drawing, task: str, split: str) -> Iterator[str]:
    """Every way to ask for a drawing; a request by a fact leaves colour and background open."""
    for wording in draw_wordings(task, split):
        if task == "draw":
            yield wording.format(thing=drawing.caption)
        else:
            yield wording.format(word=BY_NAME[drawing.name].fact(task.removeprefix("draw_")))


def draw_vocabulary() -> list[str]:
    """Every word of the requests and their answers, sorted, without the words for what is asked for."""
    texts = [wording.format(thing="", word="") for task in _ASKED for wording in _ASKED[task]]
    letters = "".join(c if c.isalpha() else " " for c in " ".join([*texts, *OPENINGS, HERE]))
    return sorted(set(letters.split()))
