"""The contract test of datasets notices each fault, and names it."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atlas.errors import UsageError, unknown
from atlas.testing import ContractError, check_dataset
from ingest.data.examples import FIND, HELD_OUT, TEXT, BadMedia, Concept, Example, Mention


class Numbers:
    """A dataset of sums in words, in memory: "what is one and two ?", "three"."""

    name, path, licence = "numbers", None, "CC0-1.0"
    words = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    tasks: Mapping[str, tuple[str, ...]] = {TEXT: ("sum",)}
    all_tasks = tasks
    metrics: Mapping[str, tuple[str, ...]] = {"sum": ("exact",)}
    revision = hashlib.sha256(b"numbers 1").hexdigest()

    def __init__(self) -> None:
        self.concepts = {word: Concept(word, (word,)) for word in self.words[4:]}

    def examples(
        self, *, source: str, split: str, concepts: Sequence[str], tasks: Sequence[str], per_concept: int, seed: int
    ) -> list[Example]:
        for kind, asked, known in (
            ("source", [source], self.tasks),
            ("split", [split], (FIND, HELD_OUT)),
            ("concept", concepts, self.concepts),
            ("task", tasks, self.tasks[TEXT]),
        ):
            for value in asked:
                if value not in known:
                    raise unknown(kind, value, known, "atlas datasets")
        found: list[Example] = []
        for concept in concepts if tasks else ():
            total = self.words.index(concept) + 1
            every = [self.example(a, total - a) for a in range(1, total)]
            mine = [e for e in every if e.split == split]
            random.Random(f"{seed} {concept}").shuffle(mine)
            found += mine[:per_concept]
        return found

    def example(self, a: int, b: int) -> Example:
        one, other, total = (self.words[number - 1] for number in (a, b, a + b))
        split = HELD_OUT if a % 2 else FIND
        return Example(TEXT, "sum", split, f"what is {one} and {other} ?", total, (Mention(total),))

    def image(self, media: str) -> Any:
        raise BadMedia(f"'{media}' is not a medium of numbers")

    def mask(self, media: str, concept: str) -> np.ndarray:
        raise BadMedia(f"'{media}' is not a medium of numbers")

    def digest(self, media: str) -> str:
        return "missing"


def built(**changed: Any) -> Callable[..., Any]:
    """A `build` of the dataset with some attributes replaced."""
    kind = type("Changed", (Numbers,), changed)

    def build(path: str | None = None) -> Any:
        """No options."""
        if path is not None:
            raise UsageError(f"numbers reads no folder ('{path}')")
        return kind()

    return build


def without_a_seed(self: Numbers, **asked: Any) -> list[Example]:
    return Numbers.examples(self, **(asked | {"seed": 0}))


def too_many(self: Numbers, **asked: Any) -> list[Example]:
    return Numbers.examples(self, **(asked | {"per_concept": asked["per_concept"] + 1}))


def forgiving(self: Numbers, **asked: Any) -> list[Example]:
    return Numbers.examples(self, **asked) if asked["source"] in self.tasks else []


def in_both(self: Numbers, a: int, b: int) -> Example:
    whole = Numbers.example(self, a, b)
    return Example(TEXT, "sum", whole.split, f"what is it, {a // 2} ?", whole.answer, whole.mentions)


def another_answer(self: Numbers, a: int, b: int) -> Example:
    whole = Numbers.example(self, a, b)
    return Example(TEXT, "sum", whole.split, whole.prompt, "I do not know", whole.mentions)


def picture(self: Numbers, media: str) -> Any:
    from PIL import Image

    return Image.open(Path("/") / media)


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "name": ({"name": "others"}, "its name is 'others'"),
    "revision": ({"revision": "1"}, "64 hex digits"),
    "licence": ({"licence": ""}, "licence"),
    "metrics": ({"metrics": {"sum": ("taste",)}}, "its metrics taste do not exist"),
    "tasks": ({"all_tasks": {"smell": ("sum",)}}, "sources other than"),
    "seed": ({"examples": without_a_seed}, "another seed gives the same"),
    "amount": ({"examples": too_many}, "examples of 1 tasks with per_concept=1"),
    "refusal": ({"examples": forgiving}, "a source that it does not have is accepted"),
    "splits": ({"example": in_both}, "an example is in both splits"),
    "words": ({"example": another_answer}, "an answer without the words"),
    "pointer": ({"image": picture}, "the foreign pointer '../x.jpg' raises FileNotFoundError, not BadMedia"),
}


def test_a_dataset_that_keeps_its_contract() -> None:
    check_dataset(built(), name="numbers")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_dataset_that_breaks_it(fault: str) -> None:
    changed, message = FAULTS[fault]
    with pytest.raises(ContractError, match=f"numbers: .*({message})"):
        check_dataset(built(**changed), name="numbers")
