"""Token batches: questions in text, and contexts that stand where a picture's tokens will stand."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from ingest.data.examples import FIND
from ingest.datasets._world import (
    BACKGROUNDS,
    COLOURS,
    FACTS,
    PICTURE_TASKS,
    TEXT_TASKS,
    THINGS,
    caption,
    context,
    picture_questions,
    text_questions,
)
from ingest.zoo.train.tokens import IMAGE

IGNORED = -100  # the label of a position that is not learned from
PLAIN = 0.2  # part of the questions whose context is words alone, each slot's sign without colour and order
ANSWERED = (*FACTS, "kind", "name")  # tasks asked of a picture that shows one thing


@dataclass(frozen=True, slots=True)
class Batch:
    """Right-padded sequences. ids: (batch, length), each with its prompt and answer. extra: (batch, length, n),
    the further words that are added to a slot's embedding (colour and order), or 0. labels: ids of the answer,
    elsewhere IGNORED."""

    ids: Tensor
    extra: Tensor
    labels: Tensor


class Writer:
    """Turns questions and answers into token ids, each text encoded once.

    slot: the token that stands where a picture's or a recording's tokens go; what the template writes `before` and
    `after` these.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, slot: str = IMAGE, before: str = "", after: str = ""
    ) -> None:
        self.tokenizer = tokenizer
        (self.slot,) = tokenizer(slot, add_special_tokens=False).input_ids
        self._known: dict[str, list[int]] = {}
        self._before, self._after = self.ids(before), self.ids(after)

    def ids(self, text: str) -> list[int]:
        """The text's token ids."""
        if text not in self._known:
            self._known[text] = self.tokenizer(text, add_special_tokens=False).input_ids
        return self._known[text]

    def word(self, word: str) -> int:
        """The id of a word that is one token."""
        (only,) = self.ids(f" {word}")
        return only

    def prompt(self, question: str, slots: list[int] | None = None) -> list[int]:
        """Ids as the chat template writes them, up to where the answer begins."""
        media = self._before + slots + self._after if slots else []
        return self.ids("<s>user:") + media + self.ids(f" {question} assistant:")

    def answer(self, answer: str) -> list[int]:
        """An answer's ids, with the end."""
        return self.ids(f" {answer}</s>")

    def batch(self, rows: list[tuple[list[int], list[int]]], extra: list[list[list[int]]] | None = None) -> Batch:
        """rows: (prompt, answer) ids. extra: equally many further ids for each of a row's slots."""
        lead = len(self.ids("<s>user:") + self._before)
        length = max(len(prompt) + len(answer) for prompt, answer in rows)
        ids = np.zeros((len(rows), length), np.int64)
        labels = np.full((len(rows), length), IGNORED)
        added = np.zeros((len(rows), length, len(extra[0][0]) if extra else 2), np.int64)
        for i, (prompt, answer) in enumerate(rows):
            end = len(prompt) + len(answer)
            ids[i, :end] = prompt + answer
            labels[i, len(prompt) : end] = answer
            if extra is not None:
                added[i, lead : lead + len(extra[i])] = extra[i]
        return Batch(torch.from_numpy(ids), torch.from_numpy(added), torch.from_numpy(labels))


class Corpus:
    """The language model's training text, drawn at random batch by batch."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self._texts = {task: self._questions(task) for task in TEXT_TASKS}
        self.wordings = {task: self.questions(task) for task in PICTURE_TASKS}

    def questions(self, task: str) -> tuple[str, ...]:
        """Ways to ask of slots."""
        return picture_questions(task, FIND)

    def _questions(self, task: str) -> list[tuple[list[int], list[int]]]:
        pairs = [pair for thing in THINGS for pair in text_questions(thing, task, FIND)]
        return [(self.writer.prompt(question), self.writer.answer(answer)) for question, answer in pairs]

    def texts(self, rng: random.Random, count: int) -> Batch:
        """Plain questions, every task equally often."""
        tasks = rng.choices(TEXT_TASKS, k=count)
        return self.writer.batch([rng.choice(self._texts[task]) for task in tasks])

    def contexts(self, rng: random.Random, count: int) -> Batch:
        """Questions and captions about slots that hold signs of things; every third is a caption."""
        rows, extra = [], []
        for number in range(count):
            task = "caption" if number % 3 == 0 else rng.choice(ANSWERED)
            row, added = self.context(rng, task)
            rows.append(row)
            extra.append(added)
        return self.writer.batch(rows, extra)

    def context(self, rng: random.Random, task: str) -> tuple[tuple[list[int], list[int]], list[list[int]]]:
        """(prompt, answer) ids about things in slots, and the further ids of each slot."""
        things = rng.sample(THINGS, rng.randint(1, 3) if task == "caption" else 1)
        plain = task != "caption" and rng.random() < PLAIN
        colours = [rng.choice(COLOURS) for _ in things]
        background = rng.choice(BACKGROUNDS)
        slots = context(rng, things, colours, background)
        shown = [(colour, thing.name) for colour, thing in zip(colours, things, strict=True)]
        answer = caption(shown, background) if task == "caption" else things[0].fact(task)
        prompt = self.writer.prompt(rng.choice(self.wordings[task]), [self.writer.word(words[0]) for words in slots])
        extra = [[0 if plain else self.writer.word(word) for word in words[1:]] or [0, 0] for words in slots]
        return (prompt, self.writer.answer(answer)), extra
