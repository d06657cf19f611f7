"""Examples to encoded items: media opened, targets found, the model's own answers made where no reference is."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from threading import Lock
from typing import Any, TypeVar

from PIL.Image import Image

from atlas.errors import AtlasError
from atlas.live.draw.drawer import DrawOptions
from atlas.live.encode import Prompt
from atlas.live.media import Clip, Medium, Sound
from atlas.live.model import LiveModel
from ingest.attribution.trace import Item
from ingest.data.counterfactuals import Counterfactuals
from ingest.data.examples import AUDIO, IMAGE, VIDEO, BadMedia, Dataset, Example, Mention
from ingest.data.targets import NONE, Target, find_targets, negative_targets
from ingest.job import Job
from ingest.run.resolve import null_draws

T = TypeVar("T")


def batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for begin in range(0, len(items), size):
        yield items[begin : begin + size]


@dataclass
class Skipped:
    """What was left out and why: concepts whose words the answer lacks (a count each), concepts whose place in the
    picture is not known where that is needed (a count each), concepts asked for of which no picture was drawn (a count
    each), media (their error)."""

    unmentioned: Counter[str] = field(default_factory=Counter)
    unplaced: Counter[str] = field(default_factory=Counter)
    undrawn: Counter[str] = field(default_factory=Counter)
    media: dict[str, str] = field(default_factory=dict)

    def merge(self, other: Mapping[str, Mapping[str, object]]) -> None:
        self.unmentioned.update({k: int(str(v)) for k, v in other["unmentioned"].items()})
        self.unplaced.update({k: int(str(v)) for k, v in other["unplaced"].items()})
        self.undrawn.update({k: int(str(v)) for k, v in other.get("undrawn", {}).items()})
        self.media.update({k: str(v) for k, v in other["media"].items()})

    def plain(self) -> dict[str, dict[str, object]]:
        counted = {name: dict(sorted(getattr(self, name).items())) for name in ("unmentioned", "unplaced")}
        counted |= {"undrawn": dict(sorted(self.undrawn.items()))} if self.undrawn else {}
        return {**counted, "media": dict(sorted(self.media.items()))}


@dataclass(frozen=True, slots=True)
class Response:
    """The model's own answer to an example. generation: hash of everything that decided it besides the model."""

    example_id: str
    generation: str
    text: str
    token_ids: tuple[int, ...]


class ExampleEncoder:
    """Prepares the examples of one job for one model.

    responses: answers that are known already, by (example id, generation); new ones are added to it and to `made`.
    """

    def __init__(
        self,
        live: LiveModel,
        dataset: Dataset,
        job: Job,
        *,
        bad_media: str = "skip",
        responses: dict[tuple[str, str], Response] | None = None,
    ):
        self.live, self.dataset, self.job, self.bad_media = live, dataset, job, bad_media
        self.responses = {} if responses is None else responses
        self.made: list[Response] = []
        self.skipped = Skipped()
        self.twins = Counterfactuals(dataset, job.inpainter, job.inpainting) if job.inpainter else None
        self._draws = null_draws(job) if job.inpainter else 0
        self._pictures: dict[str, Image] = {}
        self._encoding = Lock()  # a second thread encodes ahead, and a tokenizer is one thread's at a time
        self.stopped = False  # set by another thread: nobody wants the items any more

    def items(self, examples: Sequence[tuple[int, Example]], batch_size: int) -> list[Item]:
        """Encoded examples with at least one target; what is left out is counted in `skipped`.

        Raises:
            BadMedia: a picture cannot be opened and the job says to fail.
        """
        items = []
        for number, example, prompt in self.answered(examples, batch_size):
            targets = self._targets(example, prompt)
            twins = self._twins(example, prompt, targets)
            if self.twins is not None and example.source == IMAGE:
                self.skipped.unplaced.update({t.concept for t in targets if t.concept not in (NONE, *twins)})
            if targets:
                items.append(Item(number, prompt, tuple(targets), twins, example.cluster))
        self._pictures.clear()
        return items

    def answered(self, examples: Sequence[tuple[int, Example]], batch_size: int) -> list[tuple[int, Example, Prompt]]:
        """The examples whose media open, encoded with their reference answers, or else with the model's own.

        Raises:
            BadMedia: a picture cannot be opened and the job says to fail.
        """
        prompts = [(number, e, prompt) for number, e in examples if (prompt := self.prompt(e)) is not None]
        answers = self.answers([(e, prompt) for _, e, prompt in prompts if e.answer is None], batch_size)
        return [(n, e, p if e.answer is not None else p.answered(answers[e.id])) for n, e, p in prompts]

    def _twins(self, example: Example, prompt: Prompt, targets: Sequence[Target]) -> dict[str, tuple[Prompt, ...]]:
        """For each concept that the pictures show: the prompt without it, then without as much elsewhere."""
        found: dict[str, tuple[Prompt, ...]] = {}
        if self.twins is None or example.source != IMAGE:
            return found
        for concept in sorted({t.concept for t in targets} - {NONE}):
            regions = [self.twins.shown(pointer, concept) for pointer in example.media]
            if all(region is None for region in regions):
                continue
            made = []
            for draw in range(self._draws + 1):
                pictures = [
                    self._picture(p) if r is None else self.twins.without(p, self._picture(p), r, draw)
                    for p, r in zip(example.media, regions, strict=True)
                ]
                again = self.live.encoder.prompt(example.prompt, pictures, example.answer)
                made.append(Prompt(prompt.ids, prompt.answer, again.extras))
            found[concept] = tuple(made)
        return found

    def prompt(self, example: Example) -> Prompt | None:
        """An example encoded, with its reference answer where it has one; None where its media do not open.

        Raises:
            AtlasError: it does not fit the model (`Encoder.prompt`); the message names the example.
        """
        if self.stopped:
            raise AtlasError("encoding was stopped")
        try:
            with self._encoding:
                media = [self._medium(example.source, pointer) for pointer in example.media]
                prompt = self.live.encoder.prompt(example.prompt, media, example.answer)
            if example.source == AUDIO and self.live.encoder.role_of.media_ids[AUDIO] not in prompt.ids:
                raise BadMedia(f"{example.media[0]} is too short for {self.live.name}, which hears nothing of it")
            return prompt
        except BadMedia as error:
            if self.bad_media == "fail":
                raise
            self.skipped.media.update({pointer: str(error) for pointer in example.media})
            return None
        except AtlasError as error:
            raise type(error)(f"example {example.id}: {error}") from error

    def _medium(self, source: str, pointer: str) -> Medium:
        """What the model is shown of an example of this source."""
        dataset: Any = self.dataset
        if source == AUDIO:
            sound = Sound(*dataset.audio(pointer))
            if not sound.finite:
                raise BadMedia(f"{pointer} has samples that are NaN or infinite; save the recording again")
            return sound
        if source == VIDEO:
            return Clip(tuple(dataset.video(pointer)))
        return self._picture(pointer)

    def _picture(self, pointer: str) -> Image:
        picture = self._pictures.get(pointer)  # several questions about one picture
        if picture is None:
            picture = self._pictures[pointer] = self.dataset.image(pointer)
        return picture

    def _targets(self, example: Example, prompt: Prompt) -> list[Target]:
        wanted = self.job.concepts
        if example.target == IMAGE:
            return self._picture_targets(example, prompt)
        if self.job.mentions == "vocabulary":
            example = replace(example, mentions=tuple(Mention(name) for name in wanted))
        elif not any(mention.concept in wanted for mention in example.mentions):
            return negative_targets(len(prompt.answer))
        targets = find_targets(
            example,
            self.live.encoder.decode(prompt.answer),
            self.live.encoder.ends(prompt.answer),
            self.dataset.concepts,
            wanted,
            occurrences=self.job.occurrences,
            tokens=self.job.tokens,
        )
        found = {t.concept for t in targets}
        if self.job.mentions == "shown":
            self.skipped.unmentioned.update(
                m.concept for m in example.mentions if m.concept in wanted and m.concept not in found
            )
        elif not targets:
            return negative_targets(len(prompt.answer)) if self.job.negatives else []
        return targets

    def _picture_targets(self, example: Example, prompt: Prompt) -> list[Target]:
        """The tokens of the picture in the model's answer, for every concept that was asked for."""
        names = [m.concept for m in example.mentions if m.concept in self.job.concepts]
        places = self.live.drawer.places(prompt.answer)
        if places is None:
            self.skipped.undrawn.update(names)
            return []
        return [Target(name, place, 1 / len(places)) for name in names for place in places]

    def answers(self, asked: Sequence[tuple[Example, Prompt]], batch_size: int) -> dict[str, tuple[int, ...]]:
        """The unedited model's greedy answers, made once for each example: its id -> token ids."""
        key = {e.id: self._generation(e) for e, _ in asked}
        missing = [(e, p) for e, p in asked if (e.id, key[e.id]) not in self.responses]
        for some in batches(sorted(missing, key=lambda pair: pair[0].target), batch_size):
            answers = self.generate([e for e, _ in some], [p for _, p in some])
            for (example, _), ids in zip(some, answers, strict=True):
                self.add(Response(example.id, key[example.id], self.live.encoder.decode(ids), tuple(ids)))
        return {e.id: self.responses[e.id, key[e.id]].token_ids for e, _ in asked}

    def generate(self, examples: Sequence[Example], prompts: Sequence[Prompt]) -> list[list[int]]:
        """The model's greedy answers as it is now, in words or, where the examples ask for them, in pictures."""
        length, found = self.job.max_new_tokens, list[list[int]]()
        for target, some in groupby(zip(examples, prompts, strict=True), lambda pair: pair[0].target):
            asked, names = [], []
            for example, prompt in some:
                asked.append(prompt)
                names.append(f"example {example.id}")
            if target == IMAGE:
                found += self.live.drawer.answers(asked, DrawOptions(**self.job.drawing), length)
            else:
                found += self.live.generate(asked, max_new_tokens=length, names=names)
        return found

    def add(self, response: Response) -> None:
        self.responses[response.example_id, response.generation] = response
        self.made.append(response)

    def _generation(self, example: Example) -> str:
        text = self.live.encoder.render(example.prompt, [example.source] * len(example.media))
        media = [self.dataset.digest(pointer) for pointer in example.media]
        decided: list[object] = [text, list(example.media), media, self.dataset.revision, self.live.configuration]
        decided += [self.job.max_new_tokens, "greedy", self.live.dtype]
        decided += [self.job.drawing.get("side", 0)] if example.target == IMAGE else []
        return hashlib.sha256(json.dumps(decided).encode()).hexdigest()[:32]
