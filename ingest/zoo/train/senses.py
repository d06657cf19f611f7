"""Stage 2 of every recipe: what giving a frozen language model a sense has in common, whatever the sense."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ingest.datasets._world import BY_NAME
from ingest.zoo.train.corpus import Batch, Writer
from ingest.zoo.train.language import parameter_groups, rate_at, set_rate

ASKED = ("name", "does", "lives", "kind")
"""What is asked of what is shown: never what a thing *has*, so that this can only come through the language model."""


@dataclass(frozen=True, slots=True)
class SenseOptions:
    """shown: how many different pictures or recordings are trained on. warmup: steps without the language model, with
    `alone` of them each. captions, questions: of each batch of the other `steps`."""

    warmup: int
    alone: int
    steps: int
    shown: int
    captions: int
    questions: int
    tower_rate: float = 2e-4
    projector_rate: float = 3e-4
    warmup_rate: float = 1.5e-3
    decay: float = 0.05


@dataclass(frozen=True, slots=True)
class Sense:
    """What learns to see or hear, beside a language model that stays as it is.

    features: (batch, slots, width), or (batch, width) where all slots come of one vector, of what is shown. tokens:
    (batch, slots, d_model) of features. label_sizes: label -> how many values a head predicts. confine: puts
    weights that must stay 0 back to it.
    """

    name: str
    tower: nn.Module
    projector: nn.Module
    width: int
    features: Callable[[Tensor], Tensor]
    tokens: Callable[[Tensor], Tensor]
    label_sizes: Mapping[str, int]
    confine: Callable[[], None]


class TrainingMedia(Protocol):
    """Training pictures or recordings.

    labels: (shown, slots, told), or (shown, told), numbers that a head should tell. words: (shown, slots, words) token
    ids of the words for what each token stands for, the padding where there are fewer.
    """

    writer: Writer
    labels: Tensor
    words: Tensor

    def inputs(self, chosen: list[int]) -> Tensor:
        """Those, as the tower takes them."""
        ...

    def draw(self, rng: random.Random, captions: int, questions: int) -> tuple[list[int], Batch]:
        """Numbers of what is asked about, captions first, and the sequences that belong to them."""
        ...


def adopt(model: Any, language: Any) -> None:
    """Copy a language model's weights into one that has senses, and freeze them."""
    for own, source in (
        (model.get_decoder(), language.get_decoder()),
        (model.get_output_embeddings(), language.get_output_embeddings()),
    ):
        own.load_state_dict(source.state_dict())
        own.requires_grad_(False)


def train_sense(
    model: Any, sense: Sense, shown: TrainingMedia, options: SenseOptions, seed: int, log: Callable[[str], None]
) -> None:
    """Train tower and projector by what is shown, then on captions and questions; the language model stays frozen."""
    rng = random.Random(f"{sense.name} {seed}")
    model.train()
    _place(model, sense, shown, options, rng, log)

    def losses() -> dict[str, Tensor]:
        chosen, batch = shown.draw(rng, options.captions, options.questions)
        tokens = sense.tokens(sense.features(shown.inputs(chosen)))
        return answers(slotted(model, batch, shown.writer.slot, tokens), batch, options.captions)

    descend(
        losses,
        [(sense.tower.parameters(), options.tower_rate), (sense.projector.parameters(), options.projector_rate)],
        steps=options.steps,
        decay=options.decay,
        confine=sense.confine,
        log=log,
        name=sense.name,
    )
    model.eval()


def _place(
    model: Any,
    sense: Sense,
    shown: TrainingMedia,
    options: SenseOptions,
    rng: random.Random,
    log: Callable[[str], None],
) -> None:
    """Teach the tower to tell what is shown, by a head that is thrown away, and the projector the words for it."""
    sizes = list(sense.label_sizes.values())
    head = nn.Linear(sense.width, sum(sizes))
    known = (shown.words != 0)[..., None]
    places = (model.get_input_embeddings().weight.detach()[shown.words] * known).sum(-2)

    def losses() -> dict[str, Tensor]:
        chosen = rng.choices(range(len(shown.words)), k=options.alone)
        features = sense.features(shown.inputs(chosen))
        label_losses = choices(head(features).flatten(0, -2), sizes, shown.labels[chosen].flatten(0, -2))
        words = misplaced(sense.tokens(features), places[chosen])
        return dict(zip((*sense.label_sizes, "words"), (*label_losses, words), strict=True))

    descend(
        losses,
        [([*sense.tower.parameters(), *sense.projector.parameters(), *head.parameters()], options.warmup_rate)],
        steps=options.warmup,
        decay=options.decay,
        confine=sense.confine,
        log=log,
        name=f"{sense.name} alone",
    )


def descend(
    losses: Callable[[], Mapping[str, Tensor]],
    parts: Sequence[tuple[Iterable[nn.Parameter], float]],
    *,
    steps: int,
    decay: float,
    confine: Callable[[], None],
    log: Callable[[str], None],
    name: str,
) -> None:
    """AdamW on the sum of the losses of a new batch at every step.

    losses: each loss by the name that it is logged by. parts: parameters, and the peak of their learning rate.
    confine: run after every step, for weights that must stay 0.
    """
    listed = [([p for p in parameters if p.requires_grad], peak) for parameters, peak in parts]
    learned = [p for parameters, _ in listed for p in parameters]
    optimisers = [torch.optim.AdamW(parameter_groups(p, decay), betas=(0.9, 0.98)) for p, _ in listed]
    for step in range(steps):
        for optimiser, (_, peak) in zip(optimisers, listed, strict=True):
            set_rate(optimiser, peak * rate_at(step, steps))
        by_name = losses()
        torch.autograd.backward(torch.stack(list(by_name.values())).sum())
        nn.utils.clip_grad_norm_(learned, 1.0)
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        confine()
        if step % 100 == 0 or step == steps - 1:
            log(f"{name} step {step}: " + ", ".join(f"{one} {loss.item():.4f}" for one, loss in by_name.items()))


@dataclass(frozen=True, slots=True)
class QuestionPool:
    """What may be asked of training pictures or recordings.

    captions: of each. single: the number of each that shows one thing, and the thing's name. prompts: by task.
    slots: the tokens that stand for what is shown. several: the part of the captions that are of several things.
    """

    writer: Writer
    captions: Sequence[str]
    single: Mapping[int, str]
    prompts: Mapping[str, Sequence[str]]
    slots: list[int]
    several: float

    def draw(self, rng: random.Random, captions: int, questions: int) -> tuple[list[int], Batch]:
        """Numbers of what is asked about, captions first, and the sequences that belong to them."""
        singles = list(self.single)
        several = [number for number in range(len(self.captions)) if number not in self.single]
        rows, chosen = [], []
        for number in range(captions + questions):
            task = "caption" if number < captions else rng.choice(ASKED)
            shown = rng.choice(several if task == "caption" and rng.random() < self.several else singles)
            answer = self.captions[shown] if task == "caption" else BY_NAME[self.single[shown]].fact(task)
            rows.append((self.writer.prompt(rng.choice(self.prompts[task]), self.slots), self.writer.answer(answer)))
            chosen.append(shown)
        return chosen, self.writer.batch(rows)


def answers(logits: Tensor, batch: Batch, captions: int) -> dict[str, Tensor]:
    """The losses of the first rows, which are captions, and of the others, which are questions."""
    parts = {"captions": slice(None, captions), "questions": slice(captions, None)}
    return {
        name: nn.functional.cross_entropy(logits[part, :-1].flatten(0, 1), batch.labels[part, 1:].flatten())
        for name, part in parts.items()
    }


def slotted(model: Any, batch: Batch, slot: int, tokens: Tensor) -> Tensor:
    """(batch, length, vocabulary) logits of sequences whose slots are filled by tokens, (batch, slots, d_model)."""
    vectors = model.get_input_embeddings()(batch.ids)
    filled = vectors.masked_scatter((batch.ids == slot)[..., None].expand_as(vectors), tokens)
    hidden = model.get_decoder()(inputs_embeds=filled, use_cache=False).last_hidden_state
    logits: Tensor = model.get_output_embeddings()(hidden)
    return logits


def choices(logits: Tensor, sizes: Sequence[int], labels: Tensor) -> list[Tensor]:
    """The loss of each of several choices. logits: (rows, sum of sizes). labels: (rows, choices) numbers."""
    return [
        nn.functional.cross_entropy(part, labels[:, i])
        for i, part in enumerate(torch.split(logits, list(sizes), dim=1))
    ]


def misplaced(placed: Tensor, goal: Tensor) -> Tensor:
    """How far vectors are from where they should be, as a part of their square."""
    return (placed - goal).pow(2).mean() / goal.pow(2).mean()
