"""A recording of the small world: which things sound when over which noise, and its samples, masks and counterfactuals.

Samples are sums of layers that are each rounded to sixteen bits. So the sum is exact, removing a layer changes only
its own samples, and machines whose sines differ in the last digit agree.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from atlas.errors import UsageError
from ingest.data.examples import FIND, HELD_OUT, BadMedia
from ingest.datasets._scene import LAST
from ingest.datasets._sound_words import ALONE, AND, NOISES, SOUNDING, THEN, sound_caption, stretches
from ingest.datasets._voices import RATE, noise, voice

SECONDS = 1
SAMPLES = SECONDS * RATE
MANNERS = (ALONE, ALONE, THEN, AND)  # by turns
STEPS = 32_768  # of the rounding, between 0 and 1
PAUSE = RATE // 100  # a shorter silence within a thing's sound is part of it
LOUDNESS = {ALONE: (0.25, 0.6), THEN: (0.25, 0.6), AND: (0.3, 0.42)}  # a thing's peak, least and most
QUIET = (0.004, 0.012)  # the noise's root mean square, least and most

_ADDRESS = re.compile(rf"sound/({FIND}|{HELD_OUT})/(0|[1-9][0-9]{{0,6}})")


@dataclass(frozen=True, slots=True)
class SoundingThing:
    """A thing in a recording. onset, duration: in samples. loudness: its peak. take: the seed of its sound."""

    name: str
    onset: int
    duration: int
    loudness: float
    take: int

    def layer(self) -> np.ndarray:
        """(SAMPLES,) float32: this thing alone."""
        return _layer(self)


@dataclass(frozen=True, slots=True)
class Recording:
    """things: in the order in which they begin. manner: how they follow each other. background: the noise.
    level: its root mean square. grain: its seed."""

    things: tuple[SoundingThing, ...]
    manner: str
    background: str
    level: float
    grain: int

    @property
    def caption(self) -> str:
        """The reference caption, things in the order in which they begin."""
        return sound_caption([thing.name for thing in self.things], self.manner, self.background)

    def without(self, name: str) -> Recording:
        """The same recording without this thing."""
        remaining = tuple(thing for thing in self.things if thing.name != name)
        return Recording(remaining, self.manner, self.background, self.level, self.grain)

    def render(self) -> np.ndarray:
        """(SAMPLES,) float32 between -1 and 1."""
        samples = _rounded(np.clip(self.level * noise(self.background, self.grain, SAMPLES), -0.1, 0.1))
        for thing in self.things:
            samples = samples + thing.layer()
        return samples

    def mask(self, name: str) -> np.ndarray:
        """(SAMPLES,) bool: where this thing sounds, including short pauses; all False where it is not heard."""
        sounding = np.zeros(SAMPLES, bool)
        for thing in self.things:
            if thing.name == name:
                nonzero = np.flatnonzero(thing.layer())
                breaks = np.flatnonzero(np.diff(nonzero) > PAUSE)
                for start, end in zip(nonzero[[0, *(breaks + 1)]], nonzero[[*breaks, -1]], strict=True):
                    sounding[start : end + 1] = True
        return sounding


@lru_cache(maxsize=64)
def _layer(thing: SoundingThing) -> np.ndarray:
    samples = np.zeros(SAMPLES, np.float32)
    sound = _rounded(thing.loudness * voice(thing.name, thing.take, thing.duration))
    samples[thing.onset : thing.onset + thing.duration] = sound
    samples.setflags(write=False)
    return samples


def _rounded(wave: np.ndarray) -> np.ndarray:
    samples: np.ndarray = (np.round(wave * STEPS) / STEPS).astype(np.float32)
    return samples


def parse(address: str) -> tuple[str, int]:
    """(split, number) of a recording's address such as "sound/find/123".

    Raises:
        BadMedia: not such an address.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise BadMedia(
            f"'{address}' is not a recording; addresses look like 'sound/{FIND}/123' or 'sound/{HELD_OUT}/7'"
        )
    return match[1], int(match[2])


def leading(number: int) -> tuple[str, str]:
    """One thing of the recording, and how its things follow each other, known from its number alone."""
    return SOUNDING[number % len(SOUNDING)].name, MANNERS[number // len(SOUNDING) % len(MANNERS)]


def compose(seed: int, split: str, number: int) -> Recording:
    """The recording with this number; equal arguments give equal recordings on every machine."""
    if not 0 <= number < LAST:
        raise UsageError(f"recordings are numbered from 0 to {LAST - 1}, not {number}")
    rng = random.Random(f"sound {seed}/{split}/{number}")
    first_name, manner = leading(number)
    names = [first_name]
    if manner != ALONE:
        names.append(rng.choice([thing.name for thing in SOUNDING if thing.name != first_name]))
        rng.shuffle(names)
    things = []
    for name, (start, end) in zip(names, stretches(rng, manner), strict=True):
        onset, loudness = int(start * SAMPLES), rng.uniform(*LOUDNESS[manner])
        things.append(SoundingThing(name, onset, int(end * SAMPLES) - onset, loudness, rng.getrandbits(32)))
    return Recording(tuple(things), manner, rng.choice(NOISES), rng.uniform(*QUIET), rng.getrandbits(32))
