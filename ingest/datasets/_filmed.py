"""What of the small world moves: scenes whose things drift to the left or right, as clips of a few frames."""

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
    """The half of `scenes.Scenes` that is filmed. Clips are addressed "film/find/0", "film/held_out/0" and so on: the
    scenes of these numbers, which show one thing."""

    seed: int
    concepts: Mapping[str, Concept]

    def video(self, media: str) -> list[Image]:
        """FRAMES RGB pictures of a clip's address.

        Raises:
            BadMedia: not an address of this world.
        """
        if not media.startswith(FILM):
            raise BadMedia(f"'{media}' is not a film; addresses look like '{FILM}find/0'")
        split, number = _scene.parse(media.removeprefix(FILM))
        scene = _scene.compose(self.seed, split, number)
        rng = random.Random(f"film {self.seed}/{split}/{number}")
        ways = [rng.choice((-STEP, STEP)) for _ in scene.things]
        return [_scene.render(replace(scene, things=_moved(scene, ways, n))) for n in range(FRAMES)]

    def films(self, rng: random.Random, split: str, task: str, thing: Thing) -> Iterator[Example]:
        """Examples without end, none of a thing that cannot be drawn."""
        wordings = picture_questions(task, split)
        for number in led_by(rng, thing, DRAWN) if thing in DRAWN else ():
            if _scene.leading(number)[1] == 1:
                media, wording = f"{FILM}{split}/{number}", wordings[number % len(wordings)]
                yield Example(VIDEO, task, split, wording, thing.fact(task), (mention(thing, task),), (media,))


def _moved(scene: _scene.Scene, ways: list[int], frame: int) -> tuple[_scene.PlacedThing, ...]:
    """Each thing so many steps on its way, as far as the picture goes."""
    ends = (_scene.SIZE - thing.size for thing in scene.things)
    places = zip(scene.things, ways, ends, strict=True)
    return tuple(replace(thing, left=min(max(thing.left + way * frame, 0), end)) for thing, way, end in places)
