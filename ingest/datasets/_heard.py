"""The recordings of the small world, their masks and counterfactuals, and the questions about them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from functools import lru_cache

import numpy as np

from ingest.data.examples import AUDIO, Concept, Example, Mention
from ingest.datasets import _sounds
from ingest.datasets._files import check_names
from ingest.datasets._sound_words import ALONE, SOUNDING, sound_questions
from ingest.datasets._voices import RATE
from ingest.datasets._world import Thing, led_by, mention

PREFIX = "sound/"
VERSION = 1  # raised whenever the same address would give other samples


class SceneRecordings:
    """The part of `scenes.Scenes` with sound. Recordings are addressed "sound/find/0", "sound/held_out/0", ..."""

    seed: int
    concepts: Mapping[str, Concept]
    sounding = tuple(thing.name for thing in SOUNDING)

    def audio(self, media: str) -> tuple[np.ndarray, int]:
        """The recording of an address: (16000,) float32 between -1 and 1; its rate in Hz.

        Raises:
            BadMedia: not an address of this world.
        """
        return self._recording(media).render(), RATE

    def audio_mask(self, media: str, concept: str) -> np.ndarray:
        """(16000,) bool: the samples in which the concept sounds; all others equal the counterfactual's.

        Raises:
            BadMedia, UsageError: not an address, or not a concept, of this world.
        """
        check_names("concept", [concept], self.concepts)
        return self._recording(media).mask(concept)

    def audio_counterfactual(self, media: str, concept: str) -> tuple[np.ndarray, int]:
        """The same recording, sample for sample, without the concept; the recording itself where it is not heard.

        Raises:
            BadMedia, UsageError: not an address, or not a concept, of this world.
        """
        check_names("concept", [concept], self.concepts)
        return self._recording(media).without(concept).render(), RATE

    def audio_caption(self, media: str) -> str:
        """The reference caption, things in the order in which they begin: "a dog then a cat over the rain"."""
        return self._recording(media).caption

    def audio_digest(self, media: str) -> str:
        """What identifies a recording's content: its address, and the version of the generator."""
        return f"{media} version {VERSION}"

    def heard(self, media: str) -> tuple[str, ...]:
        """The names of the things in a recording, in the order in which they begin."""
        return tuple(thing.name for thing in self._recording(media).things)

    def recordings(self, rng: random.Random, split: str, task: str, thing: Thing) -> Iterator[Example]:
        """Endless examples; none for a silent thing. Captions are of recordings of one or two things, all other
        questions of recordings of one."""
        wordings = sound_questions(task, split)
        for number in led_by(rng, thing, SOUNDING) if thing in SOUNDING else ():
            media = f"{PREFIX}{split}/{number}"
            # Chosen by the number alone, so that one recording does not become two examples.
            wording = random.Random(f"{media} {task}").choice(wordings)
            if task == "caption":
                mentions = tuple(Mention(name) for name in self.heard(media))
                yield Example(AUDIO, task, split, wording, self.audio_caption(media), mentions, (media,))
            elif _sounds.leading(number)[1] == ALONE:
                yield Example(AUDIO, task, split, wording, thing.fact(task), (mention(thing, task),), (media,))

    def _recording(self, media: str) -> _sounds.Recording:
        return _compose(self.seed, *_sounds.parse(media))


@lru_cache(maxsize=4096)
def _compose(seed: int, split: str, number: int) -> _sounds.Recording:
    return _sounds.compose(seed, split, number)
