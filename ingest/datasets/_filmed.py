"""The videos of the small world: scenes whose things drift to the left or right, as clips of a few frames."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from ingest.data.examples import VIDEO, BadMedia, Concept, Example
from ingest.datasets import _scene
from ingest.datasets._world import DRAWN, Thing, led_by, mention, picture_questions

if TYPE_CHECKING:
    from PIL.Image import Image

FILM = "film/"
FRAMES = 4
STEP = 3  # pixels from frame to frame


class SceneVideos:
    """The part of `scenes.Scenes` with videos. Clips are addressed "film/find/0", "film/held_out/0" and so on: the
    scenes with these numbers, each of one thing."""

    seed: int
    concepts: Mapping[str, Concept]

    def video(self, media: str) -> list[Image]:
        """The FRAMES RGB pictures of a clip's address.

        Raises:
            BadMedia: not an address of this world.
        """
        if not media.startswith(FILM):
            raise BadMedia(f"'{media}' is not a film; addresses look like '{FILM}find/0'")
        split, number = _scene.parse(media.removeprefix(FILM))
        scene = _scene.compose(self.seed, split, number)
        rng = random.Random(f"film {self.seed}/{split}/{number}")
        velocities = [rng.choice((-STEP, STEP)) for _ in scene.things]
        return [_scene.render(replace(scene, things=_moved(scene, velocities, frame))) for frame in range(FRAMES)]

    def films(self, rng: random.Random, split: str, task: str, thing: Thing) -> Iterator[Example]:
        """Endless examples; none for a thing that cannot be drawn."""
        wordings = picture_questions(task, split)
        for number in led_by(rng, thing, DRAWN) if thing in DRAWN else ():
            if _scene.leading(number)[1] == 1:
                media, wording = f"{FILM}{split}/{number}", wordings[number % len(wordings)]
                yield Example(VIDEO, task, split, wording, thing.fact(task), (mention(thing, task),), (media,))


def _moved(scene: _scene.Scene, velocities: list[int], frame: int) -> tuple[_scene.PlacedThing, ...]:
    """Each thing after so many frames, kept inside the picture."""
    limits = (_scene.SIZE - thing.size for thing in scene.things)
    motions = zip(scene.things, velocities, limits, strict=True)
    return tuple(
        replace(thing, left=min(max(thing.left + velocity * frame, 0), limit)) for thing, velocity, limit in motions
    )
