"""A dataset of questions with reference answers, read from a folder: what the loaders of task datasets share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from atlas.errors import UsageError
from atlas.store.atomic import sha256
from ingest.data.examples import AUDIO, FIND, HELD_OUT, IMAGE, MISSING, VIDEO, BadMedia, Concept, Example, Mention
from ingest.data.media import open_audio, open_image
from ingest.data.video import FRAMES, open_clip
from ingest.datasets._files import check_names, resolve_media, sort_key

if TYPE_CHECKING:
    from PIL.Image import Image

RULES = 1  # raised whenever the same examples would be given in another order

UNSEEN = {AUDIO: "is a recording, not a picture", VIDEO: "is a video, not a picture"}


class TaskDataset:
    """Examples from a loader; see `Dataset`, `Recordings` and `Films` in `ingest.data.examples`.

    Examples of equal content count once. The loader sets the split, by `split_of` of the picture, speaker, ...
    """

    def __init__(
        self,
        name: str,
        root: Path,
        *,
        licence: str,
        concepts: Iterable[Concept],
        metrics: Mapping[str, tuple[str, ...]],
        examples: Iterable[Example],
        frames: int = FRAMES,
    ) -> None:
        """frames: how many frames of a video to read.

        Raises:
            UsageError: there are no examples, or a medium is in both splits.
        """
        self.name, self.licence = name, f"{licence}, as stated by its authors"
        self._root, self._frames = root, frames
        self.path: str | None = str(root)
        self.concepts: Mapping[str, Concept] = {concept.name: concept for concept in concepts}
        self.metrics: Mapping[str, tuple[str, ...]] = metrics
        self._examples = {example.id: example for example in examples}
        if not self._examples:
            raise UsageError(f"{root} has no examples; there is nothing to ingest")
        tasks: dict[str, tuple[str, ...]] = {}
        self._sources: dict[str, str] = {}
        splits: dict[str, str] = {}
        for example in self._examples.values():
            tasks[example.source] = tuple(dict.fromkeys((*tasks.get(example.source, ()), example.task)))
            for media in example.media:
                self._sources[media] = example.source
                if splits.setdefault(media, example.split) != example.split:
                    raise UsageError(f"{root}: {media} has two ids and would be in both splits; keep one of them")
        self.all_tasks: Mapping[str, tuple[str, ...]] = tasks
        self.tasks: Mapping[str, tuple[str, ...]] = tasks
        forms = [[concept.name, list(concept.forms)] for concept in self.concepts.values()]
        example_entries = [
            [example_id, entry.split, *([entry.fact] if entry.fact else [])]
            for example_id, entry in self._examples.items()
        ]
        content = [RULES, name, forms, example_entries]
        self.revision = hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def examples(
        self, *, source: str, split: str, concepts: Sequence[str], tasks: Sequence[str], per_concept: int, seed: int
    ) -> list[Example]:
        """At most `per_concept` examples of each concept and task, in a fixed order that `seed` decides.

        Raises:
            UsageError: a source, split, concept or task that the dataset does not have.
        """
        check_names("source", [source], self.all_tasks)
        check_names("split", [split], (FIND, HELD_OUT))
        check_names("concept", concepts, self.concepts)
        check_names("task", tasks, self.all_tasks[source])
        matching: dict[tuple[str, str], list[str]] = {(task, name): [] for task in tasks for name in concepts}
        for example_id, example in self._examples.items():
            for key in [(example.task, mention.concept) for mention in example.mentions]:
                if key in matching and (example.source, example.split) == (source, split):
                    matching[key].append(example_id)
        chosen: list[str] = []
        for (_, name), example_ids in matching.items():
            chosen += sorted(example_ids, key=lambda example_id: sort_key(seed, name, example_id))[:per_concept]
        return [self._examples[example_id] for example_id in dict.fromkeys(chosen)]

    def count(self, tasks: Mapping[str, Sequence[str]], splits: Sequence[str]) -> int:
        """How many examples these splits have. tasks: by source."""
        all_examples = self._examples.values()
        return sum(e.task in tasks.get(e.source, ()) and e.split in splits for e in all_examples)

    def image(self, media: str) -> Image:
        """The RGB picture behind a pointer.

        Raises:
            BadMedia: not a picture of the dataset, missing, corrupt, too large, or outside the folder.
        """
        path = self._file(media)
        if self._sources[media] != IMAGE:
            raise BadMedia(f"{path} {UNSEEN[self._sources[media]]}")
        return open_image(path)

    def audio(self, media: str) -> tuple[np.ndarray, int]:
        """The recording behind a pointer: (samples,) float32 between -1 and 1, channels averaged; its rate in Hz.

        Raises:
            BadMedia: not a recording of the dataset, missing, corrupt, too long, or outside the folder.
            Unsupported: its format needs soundfile, and it is not installed.
        """
        path = self._file(media)
        if self._sources[media] != AUDIO:
            raise BadMedia(f"{path} is not a recording")
        return open_audio(path)

    def video(self, media: str) -> list[Image]:
        """The video behind a pointer: a few RGB pictures of one size, spread evenly over it.

        Raises:
            BadMedia: not a video of the dataset, missing, corrupt, too large, or outside the folder.
            Unsupported: OpenCV is not installed.
        """
        path = self._file(media)
        if self._sources[media] != VIDEO:
            raise BadMedia(f"{path} is not a video")
        return open_clip(path, self._frames)

    def digest(self, media: str) -> str:
        """The sha256 of the file's bytes, or MISSING."""
        try:
            path = resolve_media(self._root, media)
            return sha256(path) if path.is_file() else MISSING
        except (OSError, BadMedia):
            return MISSING

    def mask(self, media: str, concept: str) -> np.ndarray:
        """(height, width) bool, all False: where a picture shows the answer is not known.

        Raises:
            UsageError: no such concept.
            BadMedia: as `image`.
        """
        check_names("concept", [concept], self.concepts)
        picture = self.image(media)
        return np.zeros((picture.height, picture.width), dtype=bool)

    def _file(self, media: str) -> Path:
        path = resolve_media(self._root, media)
        if media not in self._sources:
            raise BadMedia(f"'{media}' is not a medium of the dataset at {self._root}")
        return path


def single_concept(name: str) -> Concept:
    """The one concept of a dataset without concepts of its own: every example mentions it by its answer's words.

    It has no other words, so a job that looks for concepts in answers (mentions = "vocabulary") does not find it.
    """
    return Concept(name, (name,))


def answer_mention(name: str, answer: str) -> tuple[Mention, ...]:
    """The mention of a `single_concept`: the whole answer stands for it."""
    return (Mention(name, answer),)
