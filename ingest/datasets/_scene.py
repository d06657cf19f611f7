"""A scene: which things stand where on which ground, and its picture, masks and counterfactuals."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from atlas.errors import UsageError
from ingest.data.examples import FIND, HELD_OUT, BadMedia
from ingest.datasets._drawing import RGB, draw
from ingest.datasets._world import BACKGROUNDS, COLOURS, DRAWN, SLOTS, caption

SIZE = 64  # pixels, both ways
COUNTS = (1, 1, 2, 3)  # things in a scene, by turns
CYCLE = len(DRAWN) * len(COUNTS)  # after so many scenes, every thing has come first with every count
LAST = 10**7
MARGIN = 9  # least horizontal distance of two things' centres, in pixels
SIZES = {1: (28, 46), 2: (24, 32), 3: (20, 27)}
FAINT = 48  # an edge pixel less opaque than this (of 255) is left out
assert SLOTS * 16 * 16 == SIZE * SIZE, "a token of the picture is 16 by 16 pixels"

_ADDRESS = re.compile(rf"({FIND}|{HELD_OUT})/(0|[1-9][0-9]{{0,6}})")
BODY: dict[str, RGB] = dict(
    zip(
        COLOURS,
        (
            (208, 44, 42),
            (238, 128, 30),
            (238, 208, 48),
            (50, 148, 66),
            (48, 86, 202),
            (128, 62, 168),
            (242, 142, 184),
            (126, 80, 46),
        ),
        strict=True,
    )
)
GROUND: dict[str, RGB] = dict(
    zip(
        BACKGROUNDS,
        ((122, 178, 92), (226, 204, 158), (236, 241, 248), (128, 128, 134), (104, 170, 216)),
        strict=True,
    )
)


@dataclass(frozen=True, slots=True)
class PlacedThing:
    """A thing in a scene: `left`, `top` and `size` in pixels; its square never meets another thing's."""

    name: str
    colour: str
    body: RGB
    left: int
    top: int
    size: int
    mirrored: bool

    def meets(self, other: PlacedThing) -> bool:
        """Whether two things overlap, or are too close for one to be left of the other."""
        near = abs(2 * self.left + self.size - 2 * other.left - other.size) < 2 * MARGIN
        beside = self.left + self.size <= other.left or other.left + other.size <= self.left
        above = self.top + self.size <= other.top or other.top + other.size <= self.top
        return near or not (beside or above)


@dataclass(frozen=True, slots=True)
class Scene:
    """What a picture shows. things: from left to right. grain: seed of the ground's texture."""

    things: tuple[PlacedThing, ...]
    background: str
    ground: RGB
    grain: int

    @property
    def caption(self) -> str:
        """The reference caption, things from left to right."""
        return caption([(thing.colour, thing.name) for thing in self.things], self.background)

    def without(self, name: str) -> Scene:
        """The same scene without this thing."""
        remaining = tuple(thing for thing in self.things if thing.name != name)
        return Scene(remaining, self.background, self.ground, self.grain)


def parse(address: str) -> tuple[str, int]:
    """(split, number) of a scene's address such as "find/123".

    Raises:
        BadMedia: not such an address.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise BadMedia(f"'{address}' is not a scene; addresses look like '{FIND}/123' or '{HELD_OUT}/7'")
    return match[1], int(match[2])


def leading(number: int) -> tuple[str, int]:
    """The first thing of a scene and how many things it has, known from its number alone."""
    return DRAWN[number % len(DRAWN)].name, COUNTS[number // len(DRAWN) % len(COUNTS)]


def compose(seed: int, split: str, number: int) -> Scene:
    """The scene with this number; equal arguments give equal scenes on every machine."""
    if not 0 <= number < LAST:
        raise UsageError(f"scenes are numbered from 0 to {LAST - 1}, not {number}")
    rng = random.Random(f"scene {seed}/{split}/{number}")
    first, count = leading(number)
    names = [first, *rng.sample([thing.name for thing in DRAWN if thing.name != first], count - 1)]
    placed: list[PlacedThing] = []
    while len(placed) < count:
        candidate = _place(rng, names[len(placed)], count)
        if not any(map(candidate.meets, placed)):
            placed.append(candidate)
        elif rng.random() >= 0.95:  # there may be no room left: start again
            placed = []
    background = rng.choice(BACKGROUNDS)
    ground = _vary(rng, GROUND[background], 6)
    ordered = sorted(placed, key=lambda thing: 2 * thing.left + thing.size)
    return Scene(tuple(ordered), background, ground, rng.getrandbits(32))


def _place(rng: random.Random, name: str, count: int) -> PlacedThing:
    size = rng.randint(*SIZES[count])
    colour = rng.choice(COLOURS)
    left, top = rng.randint(0, SIZE - size), rng.randint(0, SIZE - size)
    return PlacedThing(name, colour, _vary(rng, BODY[colour], 9), left, top, size, rng.random() < 0.5)


def _vary(rng: random.Random, colour: RGB, spread: int) -> RGB:
    red, green, blue = (min(255, max(0, part + rng.randint(-spread, spread))) for part in colour)
    return red, green, blue


def render(scene: Scene) -> Image.Image:
    """The RGB picture. Blue is even on the ground and odd on things, so removing a thing changes each of its pixels and
    no other: its mask is exactly the difference from the counterfactual."""
    pixels = _ground(scene)
    for thing in scene.things:
        layer, shown = _layer(thing)
        rows, columns = slice(thing.top, thing.top + thing.size), slice(thing.left, thing.left + thing.size)
        opacity = layer[..., 3:].astype(np.uint32)
        blend = (layer[..., :3] * opacity + pixels[rows, columns] * (255 - opacity) + 127) // 255
        blend[..., 2] += 1 - blend[..., 2] % 2
        pixels[rows, columns] = np.where(shown[..., None], blend, pixels[rows, columns])
    return Image.fromarray(pixels)


def mask(scene: Scene, name: str) -> np.ndarray:
    """(SIZE, SIZE) bool: the pixels of this thing; all False where it is not in the scene."""
    pixels = np.zeros((SIZE, SIZE), bool)
    for thing in scene.things:
        if thing.name == name:
            shown = _layer(thing)[1]
            pixels[thing.top : thing.top + thing.size, thing.left : thing.left + thing.size] = shown
    return pixels


def _layer(thing: PlacedThing) -> tuple[np.ndarray, np.ndarray]:
    """A thing's (size, size, 4) pixels, and which of them are shown."""
    layer = np.asarray(draw(thing.name, thing.size, thing.body, mirrored=thing.mirrored), np.uint32)
    return layer, layer[..., 3] >= FAINT


def _ground(scene: Scene) -> np.ndarray:
    """(SIZE, SIZE, 3) uint8: the ground's colour with its own marks and a fine grain."""
    rng = np.random.default_rng(scene.grain)
    picture = Image.new("RGB", (SIZE, SIZE), scene.ground)
    pen = ImageDraw.Draw(picture)
    lighter, darker = (tuple(min(255, max(0, part + by)) for part in scene.ground) for by in (26, -26))
    for x, y in rng.integers(0, SIZE, (14, 2)).tolist():
        if scene.background == "grass":
            pen.line((x, y, x + 1, y - 3), darker)
        elif scene.background == "water":
            pen.arc((x - 4, y - 2, x + 4, y + 3), 200, 340, lighter)
        elif scene.background == "road":
            pen.line((x, y, x + 5, y), lighter)
        else:
            pen.point((x, y), darker)
    grain = rng.integers(-5, 6, (SIZE, SIZE, 1))
    pixels: np.ndarray = np.clip(np.asarray(picture, np.int64) + grain, 0, 255).astype(np.uint8)
    pixels[..., 2] -= pixels[..., 2] % 2
    return pixels
