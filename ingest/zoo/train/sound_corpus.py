"""Stage 1's contexts for a model that hears: words that stand where a recording's tokens will stand."""

from __future__ import annotations

import random

from ingest.data.examples import FIND
from ingest.datasets._sound_words import ALONE, AND, NOISES, THEN, sound_caption, sound_context, sound_questions
from ingest.datasets._world import THINGS
from ingest.zoo.train.corpus import PLAIN, Corpus

MOST = 5  # words of a slot: the signs and orders of two things, and that they are within each other


class SoundCorpus(Corpus):
    """As `Corpus`, with questions and captions about recordings."""

    def questions(self, task: str) -> tuple[str, ...]:
        return sound_questions(task, FIND)

    def context(self, rng: random.Random, task: str) -> tuple[tuple[list[int], list[int]], list[list[int]]]:
        manner = rng.choice((ALONE, THEN, AND)) if task == "caption" else ALONE
        plain = task != "caption" and rng.random() < PLAIN
        things = rng.sample(THINGS, 1 if manner == ALONE else 2)
        noise = rng.choice(NOISES)
        words = [[self.writer.word(word) for word in slot] for slot in sound_context(rng, things, manner, noise)]
        named = [thing.name for thing in things]
        answer = sound_caption(named, manner, noise) if task == "caption" else things[0].fact(task)
        prompt = self.writer.prompt(rng.choice(self.wordings[task]), [slot[0] for slot in words])
        extra = [([] if plain else slot[1:]) for slot in words]
        return (prompt, self.writer.answer(answer)), [ids + [0] * (MOST - 1 - len(ids)) for ids in extra]
