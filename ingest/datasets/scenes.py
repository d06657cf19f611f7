"""scenes: a procedural world of small pictures and sounds with captions and facts, drawn from a seed.

They have exact masks and exact counterfactuals: the same picture or recording without one thing. Each thing has facts
of its own (what it does, where it lives, what it has), asked about pictures, about sounds and in text alone.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from atlas.errors import unknown
from ingest.data.examples import AUDIO, FIND, HELD_OUT, IMAGE, TEXT, VIDEO, BadMedia, Concept, Example, Mention
from ingest.datasets import _scene
from ingest.datasets._drawings import DRAW_TASKS, Drawing, draw_wordings
from ingest.datasets._files import refuse_path
from ingest.datasets._filmed import FILM, SceneVideos
from ingest.datasets._heard import PREFIX, SceneRecordings
from ingest.datasets._sound_words import SOUND_TASKS
from ingest.datasets._world import (
    BACKGROUNDS,
    BY_NAME,
    COLOURS,
    DRAWN,
    FACTS,
    PICTURE_TASKS,
    POOL,
    TEXT_TASKS,
    THINGS,
    Thing,
    context,
    led_by,
    mention,
    picture_questions,
    text_questions,
)

if TYPE_CHECKING:
    from PIL.Image import Image

GENERATOR = 1  # raised whenever the same seed would give other examples
FILM_TASKS = ("name", *FACTS, "kind")
CONTEXT = "context_"  # a task of pictures, asked about words that stand in for a picture
TASKS = {
    IMAGE: PICTURE_TASKS,
    TEXT: (*TEXT_TASKS, *(f"{CONTEXT}{task}" for task in (*FACTS, "name")), *DRAW_TASKS),
    AUDIO: SOUND_TASKS,
    VIDEO: FILM_TASKS,
}


class Scenes(SceneRecordings, SceneVideos):
    """The world under one seed; see `ingest.data.examples.Recordings` and `Films`.

    Pictures are addressed "find/0", "find/1", ... and "held_out/0", ..., recordings "sound/find/0", ..., clips
    "film/find/0", ...: nothing is stored.
    """

    name = "scenes"
    licence = "CC0-1.0"
    segmenter = "colour"

    def __init__(self, seed: int) -> None:
        self.path = None
        self.seed = seed
        self.revision = hashlib.sha256(f"scenes {GENERATOR} seed {seed}".encode()).hexdigest()
        self.concepts: Mapping[str, Concept] = {
            thing.name: Concept(thing.name, thing.forms, thing.kind, number) for number, thing in enumerate(THINGS, 1)
        }
        self.drawn = tuple(thing.name for thing in DRAWN)
        self.all_tasks: Mapping[str, tuple[str, ...]] = TASKS
        self.tasks: Mapping[str, tuple[str, ...]] = dict.fromkeys(TASKS, FACTS)
        self.metrics: Mapping[str, tuple[str, ...]] = {"caption": ("bleu", "rouge_l", "cider")}

    def examples(
        self, *, source: str, split: str, concepts: Sequence[str], tasks: Sequence[str], per_concept: int, seed: int
    ) -> list[Example]:
        """At most `per_concept` examples of each concept and task, in a fixed order that `seed` decides.

        Undrawn things have no examples with source "image", and none that ask for a drawing; silent things have none
        with source "audio".

        Raises:
            UsageError: a source, split, concept or task that the world does not have.
        """
        for kind, names, known in (("source", [source], TASKS), ("split", [split], (FIND, HELD_OUT))):
            _check(kind, names, known)
        _check("concept", concepts, self.concepts)
        _check("task", tasks, TASKS[source])
        by_id: dict[str, Example] = {}
        for task in tasks:
            for name in concepts:
                rng = random.Random(f"examples {self.seed}/{seed}/{source}/{split}/{task}/{name}")
                # A picture that shows two of the concepts is a single example.
                by_id |= {e.id: e for e in islice(self._stream(rng, source, split, task, BY_NAME[name]), per_concept)}
        return list(by_id.values())

    def image(self, media: str) -> Image:
        """The RGB picture of a scene's address.

        Raises:
            BadMedia: not an address of this world.
        """
        return _scene.render(self._scene(media))

    def digest(self, media: str) -> str:
        """The address itself, as the world's revision decides what it shows; a recording's has a version as well."""
        return self.audio_digest(media) if media.startswith(PREFIX) else media

    def mask(self, media: str, concept: str) -> np.ndarray:
        """(height, width) bool: the pixels that show the concept, exactly those that its counterfactual changes."""
        _check("concept", [concept], self.concepts)
        return _scene.mask(self._scene(media), concept)

    def counterfactual(self, media: str, concept: str) -> Image:
        """The same picture without the concept; the picture itself where it does not show the concept."""
        _check("concept", [concept], self.concepts)
        return _scene.render(self._scene(media).without(concept))

    def background(self, media: str) -> Image:
        """The picture's ground with nothing on it."""
        scene = self._scene(media)
        return _scene.render(_scene.Scene((), scene.background, scene.ground, scene.grain))

    def caption(self, media: str) -> str:
        """The reference caption, things from left to right: "a red car and a blue dog on the grass"."""
        return self._scene(media).caption

    def shown(self, media: str) -> tuple[str, ...]:
        """The names of the things in a picture, from left to right."""
        return tuple(thing.name for thing in self._scene(media).things)

    def addresses(self, split: str, number: int) -> list[str]:
        """The first `number` pictures of a split."""
        _check("split", [split], (FIND, HELD_OUT))
        return [f"{split}/{i}" for i in range(number)]

    def _scene(self, media: str) -> _scene.Scene:
        if media.startswith((PREFIX, FILM)):
            raise BadMedia(f"'{media}' is a {'recording' if media.startswith(PREFIX) else 'video'}, not a picture")
        split, number = _scene.parse(media)
        return _compose(self.seed, split, number)

    def _stream(self, rng: random.Random, source: str, split: str, task: str, thing: Thing) -> Iterator[Example]:
        """Examples of one thing and task; an endless stream where there is no last one."""
        if source == IMAGE:
            return self._pictures(rng, split, task, thing) if thing in DRAWN else iter(())
        if task in DRAW_TASKS:
            return _requests(rng, split, task, thing) if thing in DRAWN else iter(())
        if source == AUDIO:
            return self.recordings(rng, split, task, thing)
        if source == VIDEO:
            return self.films(rng, split, task, thing)
        if task.startswith(CONTEXT):
            return _contexts(rng, split, task, thing)
        pairs = list(text_questions(thing, task, split))
        rng.shuffle(pairs)
        return (Example(TEXT, task, split, *pair, (mention(thing, task),)) for pair in pairs)

    def _pictures(self, rng: random.Random, split: str, task: str, thing: Thing) -> Iterator[Example]:
        """Captions are of pictures of one to three things, all other questions of pictures of one."""
        wordings = picture_questions(task, split)
        for number in led_by(rng, thing, DRAWN):
            media = f"{split}/{number}"
            wording = wordings[number % len(wordings)]
            if task == "caption":
                scene = self._scene(media)
                mentions = tuple(Mention(placed.name) for placed in scene.things)
                yield Example(IMAGE, task, split, wording, scene.caption, mentions, (media,))
            elif _scene.leading(number)[1] == 1:
                yield Example(IMAGE, task, split, wording, thing.fact(task), (mention(thing, task),), (media,))


def build(path: str | None = None, *, seed: int = 0) -> Scenes:
    """The world with this seed.

    Raises:
        UsageError: a path was given; the world is generated, not read.
    """
    refuse_path(path, "scenes")
    return Scenes(seed)


@lru_cache(maxsize=4096)
def _compose(seed: int, split: str, number: int) -> _scene.Scene:
    return _scene.compose(seed, split, number)


def _contexts(rng: random.Random, split: str, task: str, thing: Thing) -> Iterator[Example]:
    """Prompts of sixteen words that stand in for a picture of the thing, and a question about it."""
    question_task = task.removeprefix(CONTEXT)
    for wording in _forever(picture_questions(question_task, split)):
        words = " ".join(slot[0] for slot in context(rng, [thing], [""], rng.choice(BACKGROUNDS)))
        yield Example(
            TEXT, task, split, f"{words} {wording}", thing.fact(question_task), (mention(thing, question_task),)
        )


def _requests(rng: random.Random, split: str, task: str, thing: Thing) -> Iterator[Example]:
    """Requests for pictures of the thing: by its name, with a colour and a background, or by a fact about it."""
    wordings = draw_wordings(task, split)
    for number in range(len(wordings) * POOL if task == "draw" else len(wordings)):
        drawing = Drawing(thing.name, rng.choice(COLOURS), rng.choice(BACKGROUNDS)).shortened(rng, 0.5)
        word = "" if task == "draw" else thing.fact(task.removeprefix("draw_"))
        prompt = wordings[number % len(wordings)].format(thing=drawing.caption, word=word)
        yield Example(TEXT, task, split, prompt, None, (Mention(thing.name),), target=IMAGE)


def _forever(items: Sequence[str]) -> Iterator[str]:
    while True:
        yield from items


def _check(kind: str, names: Sequence[str], known: Mapping[str, object] | Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise unknown(kind, name, known, "atlas datasets")
