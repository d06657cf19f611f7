"""What tests of word swaps share: a small world in memory, its cases for a live model, and passes by hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from atlas.edits.edit import Intervention
from atlas.live.edit.apply import changing
from atlas.live.hooks import tracing
from atlas.live.model import LiveModel
from ingest.attribution.trace import Item
from ingest.data.examples import Concept, Example, Mention
from ingest.data.targets import Target
from ingest.job import Job
from ingest.run.encode_examples import ExampleEncoder
from ingest.solve.problem import Problem
from ingest.solve.swaps import Case, Swap, make_cases

PROMPT = "what is this ?"
CONCEPTS = {"dog": Concept("dog", ("dog", "dogs")), "cat": Concept("cat", ("cat", "cats"))}


class World:
    """A dataset of the given examples; its pictures are noise."""

    name, path, revision, licence = "world", None, "1", "CC0-1.0"

    def __init__(
        self,
        examples: Sequence[Example],
        metrics: Mapping[str, tuple[str, ...]] | None = None,
        concepts: Mapping[str, Concept] = CONCEPTS,
    ):
        self.concepts, self._examples = concepts, list(examples)
        self.all_tasks = {s: tuple(dict.fromkeys(e.task for e in examples if e.source == s)) for s in ("image", "text")}
        self.tasks = self.all_tasks
        self.metrics: Mapping[str, tuple[str, ...]] = metrics or {}

    def examples(
        self, *, source: str, split: str, concepts: Sequence[str], tasks: Sequence[str], **_: object
    ) -> list[Example]:
        """Every one of the concepts, and those that show none."""
        found = [e for e in self._examples if (e.source, e.split) == (source, split) and e.task in tasks]
        return [e for e in found if not e.mentions or any(m.concept in concepts for m in e.mentions)]

    def image(self, media: str) -> Any:
        from PIL import Image

        return Image.fromarray(np.random.default_rng(int(media)).integers(0, 256, (9, 9, 3), dtype=np.uint8))

    def digest(self, media: str) -> str:
        return media

    def mask(self, media: str, concept: str) -> np.ndarray:
        return np.zeros((9, 9), bool)


def example(answer: str | None, *, media: str = "", task: str = "name", **more: Any) -> Example:
    """media: the number of a picture; none for a question in text."""
    mentions = tuple(Mention(c) for c in more.pop("mentions", CONCEPTS if answer is None else _said(answer)))
    source = "image" if media else "text"
    given = {"prompt": PROMPT, "split": "find", "media": (media,) if media else ()} | more
    return Example(source, task, answer=answer, mentions=mentions, **given)


def _said(answer: str) -> list[str]:
    return [name for name, concept in CONCEPTS.items() if set(concept.forms) & set(answer.lower().split())]


def feed_of(live: LiveModel, examples: Sequence[Example], **world: Any) -> ExampleEncoder:
    return ExampleEncoder(live, World(examples, **world), Job(max_new_tokens=12, concepts=tuple(CONCEPTS)))


def cases_of(live: LiveModel, answers: Sequence[str | None], swap: Swap, *, pictures: bool = False) -> list[Case]:
    """The cases of questions with these answers; each with a picture of its own, where the model sees any."""
    examples = [
        example(answer, media=str(i) if pictures else "", prompt=f"{'a ' * (i % 3)}{PROMPT}")
        for i, answer in enumerate(answers)
    ]
    return make_cases(feed_of(live, examples), list(enumerate(examples)), swap, 4)


def items_of(live: LiveModel, answers: Sequence[str], *, pictures: bool = False) -> list[Item]:
    """Answered prompts whose every answer token counts; first the last."""
    items = []
    for number, answer in enumerate(answers):
        shown = [World([]).image(str(number + 50))] if pictures else []
        prompt = live.encoder.prompt(PROMPT, shown, answer)
        count = len(prompt.answer)
        items.append(Item(number, prompt, tuple(Target("cat", i, 1 / count) for i in range(count))))
    return items


def problem_of(live: LiveModel, answers: Sequence[str], swap: Swap, **more: Any) -> Problem:
    pictures = live.name != "random-opt"
    cases = cases_of(live, answers, swap, pictures=pictures)
    assert len(cases) == len(answers)
    return Problem(live, cases, suppress=swap.wanted is None, **more)


SPOKEN = [
    *[example("a dog", media=str(i), task="caption", split="find" if i < 2 else "held_out") for i in range(4)],
    *[example("a cat", media=str(i), task="caption", split="find" if i < 6 else "held_out") for i in range(4, 8)],
    example("a red dog barks", prompt="what barks ?"),
    example("dog", prompt="one word :"),
    example("a red cat meows", prompt="what meows ?"),
    example("a dog and a cat", prompt="what is hot ?", split="held_out"),
    example("two dogs", prompt="two what ?", split="held_out"),
    example("the red picture", prompt="what is red ?", split="held_out", mentions=()),
]
"""What `speaker` was taught to say, word by word."""


def speaker(live: LiveModel) -> LiveModel:
    """Teach a random model the answers of SPOKEN by heart, so that there are words which it says."""
    prompts = [p for e in SPOKEN if (p := feed_of(live, SPOKEN).prompt(e)) is not None]
    end = live.model.generation_config.eos_token_id
    batch = live.batch([p.answered((*p.answer, end)) for p in prompts])
    ids, length = batch.inputs["input_ids"], batch.roles.shape[1]
    wanted = torch.arange(length) >= torch.tensor(batch.starts)[:, None]
    wanted &= batch.inputs["attention_mask"].bool()
    parameters = list(live.model.requires_grad_(True).parameters())
    optimiser = torch.optim.Adam(parameters, lr=3e-3)
    for _ in range(300):
        logits = live.model(**batch.inputs).logits[:, :-1][wanted[:, 1:]]
        loss = torch.nn.functional.cross_entropy(logits, ids[:, 1:][wanted[:, 1:]])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if loss < 0.01:
            break
    for parameter in parameters:
        parameter.grad = None
    live.model.requires_grad_(False)
    return live


def one_pass(live: LiveModel, item: Item, *, layers: Sequence[int] | None = None) -> tuple[Any, int, list[int]]:
    """An item's own pass without padding: the capture, where its answer starts, its token ids."""
    batch = live.batch([item.prompt])
    with torch.no_grad(), tracing(live.layout, layers=layers) as capture:
        live.forward(batch)
    return capture, batch.starts[0], batch.inputs["input_ids"][0].tolist()


def said(live: LiveModel, item: Item, intervention: Intervention | None = None) -> list[float]:
    """The probability of each of an item's target tokens, by the whole model, applied with hooks."""
    with changing(live, intervention or Intervention(())):
        capture, start, ids = one_pass(live, item, layers=[])
    probabilities: Tensor = live.logits(capture.norm_out[0]).softmax(-1)
    return [float(probabilities[start + t.index - 1, ids[start + t.index]]) for t in item.targets]


def hooks(model: torch.nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@contextmanager
def untouched(live: LiveModel) -> Iterator[None]:
    """No hook is left, no weight is another, and none has a gradient."""
    one_pass(
        live, items_of(live, ["a"], pictures=live.name != "random-opt")[0]
    )  # transformers has a few hooks of its own from the first pass on
    before, weights = hooks(live.model), [p.detach().clone() for p in live.model.parameters()]
    try:
        yield
    finally:
        assert hooks(live.model) == before, "a hook is left"
        for old, new in zip(weights, live.model.parameters(), strict=True):
            assert torch.equal(old, new) and new.grad is None and not new.requires_grad
