"""A small dataset in memory for solvers: questions about dogs and cats, and the cases of a word swap among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from atlas.edits.edit import Intervention
from atlas.live.edit.apply import changing
from atlas.live.hooks import tracing
from atlas.live.model import LiveModel
from ingest.attribution.item import Item
from ingest.data.examples import Concept, Example, Mention
from ingest.data.targets import Target
from ingest.job import Job
from ingest.run.encode_examples import ExampleEncoder
from ingest.solve.problem import Problem
from ingest.solve.swaps import Swap, SwapCase, make_cases

PROMPT = "what is this ?"
CONCEPTS = {"dog": Concept("dog", ("dog", "dogs")), "cat": Concept("cat", ("cat", "cats"))}


class World:
    """A dataset of the given examples; its pictures are noise."""

    name, revision, licence = "world", "1", "CC0-1.0"
    path: str | None = None

    def __init__(
        self,
        examples: Sequence[Example],
        metrics: Mapping[str, tuple[str, ...]] | None = None,
        concepts: Mapping[str, Concept] = CONCEPTS,
    ):
        self.concepts, self._examples = concepts, list(examples)
        by_source = {s: tuple(dict.fromkeys(e.task for e in examples if e.source == s)) for s in ("image", "text")}
        self.all_tasks: Mapping[str, tuple[str, ...]] = by_source
        self.tasks: Mapping[str, tuple[str, ...]] = by_source
        self.metrics: Mapping[str, tuple[str, ...]] = metrics or {}

    def examples(
        self, *, source: str, split: str, concepts: Sequence[str], tasks: Sequence[str], **_: object
    ) -> list[Example]:
        """Every example of the concepts, and those without a concept."""
        selected = [e for e in self._examples if (e.source, e.split) == (source, split) and e.task in tasks]
        return [e for e in selected if not e.mentions or any(m.concept in concepts for m in e.mentions)]

    def image(self, media: str) -> Any:
        """A picture of noise, drawn by its number."""
        from PIL import Image

        return Image.fromarray(np.random.default_rng(int(media)).integers(0, 256, (9, 9, 3), dtype=np.uint8))

    def digest(self, media: str) -> str:
        """The picture's number, which determines its content."""
        return media

    def mask(self, media: str, concept: str) -> np.ndarray:
        """(9, 9) bool: nothing of a concept is marked."""
        return np.zeros((9, 9), bool)


def example(answer: str | None, *, media: str = "", task: str = "name", **more: Any) -> Example:
    """An example. media: the number of a picture; empty for a question in text."""
    mentions = tuple(Mention(c) for c in more.pop("mentions", CONCEPTS if answer is None else _named_concepts(answer)))
    source = "image" if media else "text"
    fields = {"prompt": PROMPT, "split": "find", "media": (media,) if media else ()} | more
    return Example(source, task, answer=answer, mentions=mentions, **fields)


def _named_concepts(answer: str) -> list[str]:
    return [name for name, concept in CONCEPTS.items() if set(concept.forms) & set(answer.lower().split())]


def feed_of(live: LiveModel, examples: Sequence[Example], **world: Any) -> ExampleEncoder:
    """The encoder of these examples. world: more arguments of `World`."""
    return ExampleEncoder(live, World(examples, **world), Job(max_new_tokens=12, concepts=tuple(CONCEPTS)))


def cases_of(live: LiveModel, answers: Sequence[str | None], swap: Swap, *, pictures: bool = False) -> list[SwapCase]:
    """The cases of questions with these answers; with `pictures`, each with its own."""
    examples = [
        example(answer, media=str(i) if pictures else "", prompt=f"{'a ' * (i % 3)}{PROMPT}")
        for i, answer in enumerate(answers)
    ]
    return make_cases(feed_of(live, examples), list(enumerate(examples)), swap, 4)


def items_of(live: LiveModel, answers: Sequence[str], *, pictures: bool = False) -> list[Item]:
    """Answered prompts in which every answer token is a target of equal weight."""
    items = []
    for number, answer in enumerate(answers):
        shown = [World([]).image(str(number + 50))] if pictures else []
        prompt = live.encoder.prompt(PROMPT, shown, answer)
        count = len(prompt.answer)
        items.append(Item(number, prompt, tuple(Target("cat", i, 1 / count) for i in range(count))))
    return items


def problem_of(live: LiveModel, answers: Sequence[str], swap: Swap, **more: Any) -> Problem:
    """A solver's problem: a word swap in these answers. more: further arguments of `Problem`."""
    pictures = live.name != "random-opt"
    cases = cases_of(live, answers, swap, pictures=pictures)
    assert len(cases) == len(answers)
    return Problem(live, cases, suppress=swap.wanted is None, **more)


def one_pass(live: LiveModel, item: Item, *, layers: Sequence[int] | None = None) -> tuple[Any, int, list[int]]:
    """An item's own pass without padding: the capture, where its answer starts, its token ids."""
    batch = live.batch([item.prompt])
    with torch.no_grad(), tracing(live.layout, layers=layers) as capture:
        live.forward(batch)
    return capture, batch.starts[0], batch.inputs["input_ids"][0].tolist()


def target_probabilities(live: LiveModel, item: Item, intervention: Intervention | None = None) -> list[float]:
    """The probability of each of an item's target tokens, by a whole pass, with the intervention applied by hooks."""
    with changing(live, intervention or Intervention(())):
        capture, start, ids = one_pass(live, item, layers=[])
    probabilities: Tensor = live.logits(capture.norm_out[0]).softmax(-1)
    return [float(probabilities[start + t.index - 1, ids[start + t.index]]) for t in item.targets]
