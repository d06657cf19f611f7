"""What a dataset gives a job: concepts, and examples that show them.

A dataset is one file `ingest/datasets/<name>.py` with `build(path, **options) -> Dataset`; the file's
name is the dataset's name on the command line, in the job and in the database.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from atlas.errors import AtlasError

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

IMAGE, TEXT, AUDIO, VIDEO = "image", "text", "audio", "video"
FIND, HELD_OUT = "find", "held_out"
MISSING = "missing"
"""The digest of a medium that is not there, or that the dataset may not read."""

BOTH = "all"
"""`split` of a job that takes both: on a dataset that no neurons were found on, nothing need be held out."""


def splits_of(split: str) -> tuple[str, ...]:
    """The splits of a dataset that a job's `split` stands for."""
    return (FIND, HELD_OUT) if split == BOTH else (split,)


class BadMedia(AtlasError):
    """A picture or a recording that is missing, corrupt or too large; the message has its path."""


@dataclass(frozen=True, slots=True)
class Concept:
    """A thing a neuron may stand for.

    forms: surface forms to look for in an answer (singular, plurals, synonyms), lower case, the name first.
    category_id: the dataset's own id (COCO's 91-id numbering), where it has one.
    unlike: longer phrases that contain one of the forms and do not mean the concept ("hot dog" for dog).
    """

    name: str
    forms: tuple[str, ...]
    supercategory: str | None = None
    category_id: int | None = None
    unlike: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Mention:
    """An example concerns this concept.

    words: the words of the answer that stand for the concept ("barks" for dog), or None: any of the concept's surface
    forms in the answer.
    """

    concept: str
    words: str | None = None


@dataclass(frozen=True, slots=True)
class Example:
    """One prompt with its media (pointers, never copies) and its reference answer.

    source: the modality that carries the concept in: "image", "text", "audio" or "video".
    task: what is asked ("caption", "name", "does", ...); evaluations report each task separately.
    split: "find" (neurons are found on these) or "held_out" (edits are judged on these).
    prompt: the user's words, without chat markup. With source "text" the model gets no media.
    answer: the answer that is teacher-forced and explained, or None: the model's own response is used.
    media: pointers that `Dataset.image` resolves: a path below the dataset's root, or a scene's address.
    target: the answer's modality: "text", or "image" where the model is asked for a picture.
    fact: the fact that several examples without media are wordings of, where the dataset has it (see `cluster`).
    references: every answer that a metric compares a generated one with; empty: `answer` is the only one, and
    where that is None there is no reference.
    """

    source: str
    task: str
    split: str
    prompt: str
    answer: str | None
    mentions: tuple[Mention, ...]
    media: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    target: str = TEXT
    fact: str = ""

    @property
    def cluster(self) -> str:
        """A key shared by examples that are nearly the same: their media, or the fact that they are wordings of.

        Without either, the same answer about the same concepts is one fact.
        """
        if self.media:
            return "|".join(self.media)
        named = [self.task, sorted(m.concept for m in self.mentions), self.answer or self.prompt]
        return self.fact or json.dumps(named, ensure_ascii=True)

    @property
    def id(self) -> str:
        """32 hex digits of the content: equal examples have equal ids on every machine."""
        content: list[object] = [self.source, self.task, self.prompt, self.answer, list(self.media)]
        content.append([[m.concept, m.words] for m in self.mentions])
        if self.references:  # added only where present, so that older ids stay
            content.append(list(self.references))
        if self.target != TEXT:
            content.append(self.target)
        return hashlib.sha256(json.dumps(content, ensure_ascii=True).encode()).hexdigest()[:32]


class Dataset(Protocol):
    """Concepts, and examples that show them.

    name: as on the command line. path: the user's, or None. revision: hex digest of everything that determines the
    examples (annotation bytes, generator version, seed), so that equal revisions give equal examples. all_tasks: every
    task, by source. tasks: the default ones. metrics: for each task whose generated answers are judged, the names of
    the metrics (files of `ingest/metrics`) that judge them."""

    name: str
    path: str | None
    revision: str
    licence: str
    concepts: Mapping[str, Concept]
    all_tasks: Mapping[str, tuple[str, ...]]
    tasks: Mapping[str, tuple[str, ...]]
    metrics: Mapping[str, tuple[str, ...]]

    def examples(
        self, *, source: str, split: str, concepts: Sequence[str], tasks: Sequence[str], per_concept: int, seed: int
    ) -> list[Example]:
        """At most `per_concept` examples of each concept and task, in a fixed order that `seed` decides.

        An example that shows two of the concepts appears once. The splits "find" and "held_out" never share one."""
        ...

    def image(self, media: str) -> Image:
        """The RGB picture behind a pointer.

        Raises:
            BadMedia: missing, corrupt, or above the size limits.
        """
        ...

    def digest(self, media: str) -> str:
        """What identifies the picture's content: a hash of its bytes, or MISSING where it does not exist."""
        ...

    def mask(self, media: str, concept: str) -> np.ndarray:
        """(height, width) bool: the picture's pixels that show the concept; all False where it is not shown."""
        ...


class Recordings(Dataset, Protocol):
    """A dataset with source "audio"."""

    def audio(self, media: str) -> tuple[np.ndarray, int]:
        """The recording behind a pointer: (samples,) float32 between -1 and 1, channels averaged; its rate in Hz.

        Raises:
            BadMedia: missing, corrupt, or above the limits.
            Unsupported: its format needs a package that is not installed.
        """
        ...


class Films(Dataset, Protocol):
    """A dataset with source "video"."""

    def video(self, media: str) -> list[Image]:
        """The video behind a pointer, as a few RGB pictures of one size in their order.

        Raises:
            BadMedia: missing, corrupt, or above the limits.
            Unsupported: reading it needs a package that is not installed.
        """
        ...
