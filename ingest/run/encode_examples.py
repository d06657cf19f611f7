"""Examples to encoded items: open media, find targets, generate the model's own answers where there is no reference."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from threading import Lock
from typing import Any, TypeVar

from PIL.Image import Image

from atlas.errors import AtlasError
from atlas.live.draw.drawer import DrawOptions
from atlas.live.encode import Prompt
from atlas.live.media import Clip, Medium, Sound
from atlas.live.model import LiveModel
from ingest.attribution.estimators import REGION
from ingest.attribution.item import Item
from ingest.attribution.positions import INPUT
from ingest.data.counterfactuals import Counterfactuals
from ingest.data.examples import AUDIO, IMAGE, TEXT, VIDEO, BadMedia, Dataset, Example, Mention
from ingest.data.targets import NONE, Target, find_targets, mention_spans, negative_targets, tokens_of
from ingest.job import Job
from ingest.run.phases import ANSWERING, Phases
from ingest.run.regions import Regions
from ingest.run.resolve import needs, null_draws
from ingest.run.skipped import Skipped

T = TypeVar("T")


def batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """The items in order, at most `size` at a time."""
    for begin in range(0, len(items), size):
        yield items[begin : begin + size]


@dataclass(frozen=True, slots=True)
class Response:
    """The model's own answer to an example. generation: hash of everything that determines it besides the model."""

    example_id: str
    generation: str
    text: str
    token_ids: tuple[int, ...]


class ExampleEncoder:
    """Prepares the examples of one job for one model.

    responses: known answers by (example id, generation); new ones are added to it and to `made`. examples: all of the
    run, where a method compares the pictures of a concept (the need REGION).
    """

    def __init__(
        self,
        live: LiveModel,
        dataset: Dataset,
        job: Job,
        *,
        bad_media: str = "skip",
        responses: dict[tuple[str, str], Response] | None = None,
        examples: Sequence[Example] = (),
    ):
        self.live, self.dataset, self.job, self.bad_media = live, dataset, job, bad_media
        self.responses = {} if responses is None else responses
        self.made: list[Response] = []
        self.phases = Phases()
        self.skipped = Skipped()
        self.twins = Counterfactuals(dataset, job.inpainter, job.inpainting) if job.inpainter else None
        self._draws = null_draws(job) if job.inpainter else 0
        self._reads_input = INPUT in needs(job)
        self.examples = examples
        self._regions = Regions(live, dataset, examples, self.skipped) if REGION in needs(job) else None
        self._pictures: dict[str, Image] = {}
        self._encoding = Lock()  # a second thread encodes ahead, and a tokenizer is not thread-safe
        self.stopped = False  # set by another thread when the items are no longer needed

    def another(self) -> ExampleEncoder:
        """A new one of the same job, that knows the same answers and has left out nothing yet."""
        return ExampleEncoder(
            self.live,
            self.dataset,
            self.job,
            bad_media=self.bad_media,
            responses=self.responses,
            examples=self.examples,
        )

    def items(self, examples: Sequence[tuple[int, Example]], batch_size: int) -> list[Item]:
        """Encoded examples with at least one target; others are counted in `skipped`.

        Raises:
            BadMedia: a medium cannot be opened and the job says to fail.
        """
        items = []
        for number, example, prompt in self.answered(examples, batch_size):
            targets = self._targets(example, prompt)
            twins = self._twins(example, prompt, targets)
            if self.twins is not None and self._regions is None and example.source == IMAGE:
                self.skipped.unplaced.update({t.concept for t in targets if t.concept not in (NONE, *twins)})
            named = self._named(example, prompt, targets) if self._reads_input and example.source == TEXT else {}
            regions = self._regions.of(example, prompt, targets) if self._regions is not None else {}
            if targets:
                items.append(Item(number, prompt, tuple(targets), twins, example.cluster, named, regions))
        self._pictures.clear()
        return items

    def answered(self, examples: Sequence[tuple[int, Example]], batch_size: int) -> list[tuple[int, Example, Prompt]]:
        """The examples whose media can be opened, encoded with their reference answers, or else with the model's own.

        Raises:
            BadMedia: a medium cannot be opened and the job says to fail.
        """
        prompts = [(number, e, prompt) for number, e in examples if (prompt := self.prompt(e)) is not None]
        answers = self.answers([(e, prompt) for _, e, prompt in prompts if e.answer is None], batch_size)
        return [(n, e, p if e.answer is not None else p.answered(answers[e.id])) for n, e, p in prompts]

    def _twins(self, example: Example, prompt: Prompt, targets: Sequence[Target]) -> dict[str, tuple[Prompt, ...]]:
        """For each concept that the pictures show: the prompt without it, then without equal regions elsewhere."""
        by_concept: dict[str, tuple[Prompt, ...]] = {}
        if self.twins is None or example.source != IMAGE:
            return by_concept
        for concept in sorted({t.concept for t in targets} - {NONE}):
            regions = [self.twins.shown(pointer, concept) for pointer in example.media]
            if all(region is None for region in regions):
                continue
            variants = []
            for draw in range(self._draws + 1):
                pictures = [
                    self._picture(p) if r is None else self.twins.without(p, self._picture(p), r, draw)
                    for p, r in zip(example.media, regions, strict=True)
                ]
                without_concept = self.live.encoder.prompt(example.prompt, pictures, example.answer)
                variants.append(Prompt(prompt.ids, prompt.answer, without_concept.extras))
            by_concept[concept] = tuple(variants)
        return by_concept

    def _named(self, example: Example, prompt: Prompt, targets: Sequence[Target]) -> dict[str, tuple[int, ...]]:
        """For each concept to explain: the prompt's tokens that name it; concepts without any are counted in
        `skipped`."""
        text, ends = self.live.encoder.decode(prompt.ids), self.live.encoder.ends(prompt.ids)
        # The chat template's own words do not count. A tokenizer may compose or decompose letters.
        spellings = [example.prompt, *(unicodedata.normalize(form, example.prompt) for form in ("NFC", "NFD", "NFKC"))]
        asked = next((spelling for spelling in spellings if spelling in text), None)
        concepts = sorted({t.concept for t in targets} - {NONE})
        if asked is None:
            self.skipped.rewritten.update(concepts)
            return {}
        start = text.index(asked)
        by_concept: dict[str, tuple[int, ...]] = {}
        for concept in concepts:
            ranges = mention_spans(asked, Mention(concept), self.dataset.concepts)
            tokens = [t for first, end in ranges for t in tokens_of((first + start, end + start), ends)]
            if tokens:
                by_concept[concept] = tuple(sorted(set(tokens)))
            else:
                self.skipped.unnamed[concept] += 1
        return by_concept

    def prompt(self, example: Example) -> Prompt | None:
        """An example encoded, with its reference answer where it has one; None where its media cannot be opened.

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
                raise BadMedia(f"{example.media[0]} is too short for {self.live.name}, which makes no token of it")
            return prompt
        except BadMedia as error:
            if self.bad_media == "fail":
                raise
            self.skipped.media.update({pointer: str(error) for pointer in example.media})
            return None
        except AtlasError as error:
            raise type(error)(f"example {example.id}: {error}") from error

    def _medium(self, source: str, pointer: str) -> Medium:
        """A medium in the form in which the model takes it, by the example's source."""
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
        job_concepts = self.job.concepts
        if example.target == IMAGE:
            return self._picture_targets(example, prompt)
        if self.job.mentions == "vocabulary":
            example = replace(example, mentions=tuple(Mention(name) for name in job_concepts))
        elif not any(mention.concept in job_concepts for mention in example.mentions):
            return negative_targets(len(prompt.answer))
        targets = find_targets(
            example,
            self.live.encoder.decode(prompt.answer),
            self.live.encoder.ends(prompt.answer),
            self.dataset.concepts,
            job_concepts,
            occurrences=self.job.occurrences,
            tokens=self.job.tokens,
        )
        found_concepts = {t.concept for t in targets}
        if self.job.mentions == "shown":
            self.skipped.unmentioned.update(
                m.concept for m in example.mentions if m.concept in job_concepts and m.concept not in found_concepts
            )
        elif not targets:
            return negative_targets(len(prompt.answer)) if self.job.negatives else []
        return targets

    def _picture_targets(self, example: Example, prompt: Prompt) -> list[Target]:
        """The tokens of the picture in the model's answer, for every requested concept."""
        names = [m.concept for m in example.mentions if m.concept in self.job.concepts]
        places = self.live.drawer.places(prompt.answer)
        if places is None:
            self.skipped.undrawn.update(names)
            return []
        return [Target(name, place, 1 / len(places)) for name in names for place in places]

    def answers(self, prompted: Sequence[tuple[Example, Prompt]], batch_size: int) -> dict[str, tuple[int, ...]]:
        """The unedited model's greedy answers, generated once for each example: its id -> token ids."""
        key = {e.id: self._generation(e) for e, _ in prompted}
        missing = [(e, p) for e, p in prompted if (e.id, key[e.id]) not in self.responses]
        for chunk in batches(sorted(missing, key=lambda pair: pair[0].target), batch_size):
            with self.phases.phase(ANSWERING):
                answers = self.generate([e for e, _ in chunk], [p for _, p in chunk])
            for (example, _), ids in zip(chunk, answers, strict=True):
                self.add(Response(example.id, key[example.id], self.live.encoder.decode(ids), tuple(ids)))
        return {e.id: self.responses[e.id, key[e.id]].token_ids for e, _ in prompted}

    def generate(self, examples: Sequence[Example], prompts: Sequence[Prompt]) -> list[list[int]]:
        """The greedy answers of the model as it is now, in words or, where the examples ask for them, in pictures."""
        length, token_ids = self.job.max_new_tokens, list[list[int]]()
        for target, group in groupby(zip(examples, prompts, strict=True), lambda pair: pair[0].target):
            group_prompts, names = [], []
            for example, prompt in group:
                group_prompts.append(prompt)
                names.append(f"example {example.id}")
            if target == IMAGE:
                token_ids += self.live.drawer.answers(group_prompts, DrawOptions(**self.job.drawing), length)
            else:
                token_ids += self.live.generate(group_prompts, max_new_tokens=length, names=names)
        return token_ids

    def add(self, response: Response) -> None:
        """Keep an answer for later calls and for the run."""
        self.responses[response.example_id, response.generation] = response
        self.made.append(response)

    def _generation(self, example: Example) -> str:
        text = self.live.encoder.render(example.prompt, [example.source] * len(example.media))
        media = [self.dataset.digest(pointer) for pointer in example.media]
        content: list[object] = [text, list(example.media), media, self.dataset.revision, self.live.configuration]
        content += [self.job.max_new_tokens, "greedy", self.live.dtype]
        content += [self.job.drawing.get("side", 0)] if example.target == IMAGE else []
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]
