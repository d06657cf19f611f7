"""Whole answers to a few held-out questions: before, with an edit, and with as many random neurons changed alike."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from atlas.edits.edit import Edit
from atlas.edits.edited_answers import BEFORE, EDITED, RANDOM
from atlas.errors import UsageError
from atlas.live.edit.apply import changing, require_own
from atlas.live.encode import Prompt
from ingest.data.examples import IMAGE, VIDEO, Dataset, Example
from ingest.draw.drawings import Drawings
from ingest.evaluate.controls import controls_for
from ingest.evaluate.drawn import pictures_in
from ingest.evaluate.edit import random_controls
from ingest.evaluate.from_edit import concept_of
from ingest.job import Execution, Job
from ingest.run import prepare
from ingest.run.encode_examples import ExampleEncoder, batches
from ingest.run.generate import PICTURE
from ingest.run.session import PreparedJob, prepare_job

if TYPE_CHECKING:
    from PIL.Image import Image

Prompted = Sequence[tuple[Example, Prompt]]
CONCEPT, OTHERS = "concept", "others"


@dataclass
class Asked:
    """The rows; the pictures that were shown and drawn, as `EditedAnswers` has them; counts: of the questions there
    are, by source and subset; concept: what the edit is about."""

    model: str
    fingerprint: str
    concept: str | None
    counts: dict[tuple[str, str], int]
    rows: list[dict[str, Any]] = field(default_factory=list)
    seen: dict[str, np.ndarray] = field(default_factory=dict)
    drawn: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)
    skipped: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def ask(
    atlas: Path, edit: Edit, job: Job, execution: Execution, *, number: int, controls: str | None, control: bool
) -> Asked:
    """Put questions to the model as it is, with the edit and, with `control`, with random neurons.

    number: at most so many questions of each source about the edit's concept, and as many about others. controls: see
    `ingest.evaluate.controls.controls_for`.

    Raises:
        UsageError: the model's weights are not the edit's, or there is no question.
    """
    prepared = prepare_job(job, execution)
    live = prepare.load_model(prepared.job, execution)
    require_own(edit, live)
    concept = concept_of(edit, prepared.dataset)
    encoder = ExampleEncoder(live, prepared.dataset, prepared.job, bad_media=execution.bad_media)
    prompted = _prompted(encoder, chosen(prepared.examples, concept, number, prepared.job.seed))
    counts = Counter((example.source, subset_of(example, concept)) for example in prepared.examples)
    asked = Asked(live.name, live.fingerprint, concept, dict(counts))
    conditions = {BEFORE: None, EDITED: edit.intervention}
    if control:
        kind = controls_for(atlas, live, controls, edit.intervention.tap, notes=asked.notes)
        conditions |= dict(zip([RANDOM], random_controls(atlas, edit, live, 1, kind, asked.notes), strict=False))
    said: dict[str, list[tuple[str, Image | None]]] = {}
    for condition, intervention in conditions.items():
        if intervention is None:
            said[condition] = _answers(encoder, prompted, execution.batch_size)
        else:
            with changing(live, intervention):
                said[condition] = _answers(encoder, prompted, execution.batch_size)
    _record(asked, prepared, prompted, said)
    asked.skipped = encoder.skipped.plain()
    return asked


def subset_of(example: Example, concept: str | None) -> str:
    """Whether an example is about the concept or about others."""
    return CONCEPT if concept in {mention.concept for mention in example.mentions} else OTHERS


def chosen(examples: Sequence[Example], concept: str | None, number: int, seed: int) -> list[Example]:
    """At most so many examples of each source about the concept, then as many about others, drawn by the seed; of
    those about the same picture or fact only one."""
    drawn = list(examples)
    random.Random(f"answers {seed}").shuffle(drawn)
    taken: dict[tuple[str, str], dict[str, Example]] = {}
    for example in drawn:
        of_kind = taken.setdefault((example.source, subset_of(example, concept)), {})
        if len(of_kind) < number:
            of_kind.setdefault(example.cluster, example)
    return [example for kind in sorted(taken) for example in taken[kind].values()]


def _prompted(encoder: ExampleEncoder, examples: Sequence[Example]) -> Prompted:
    """The examples whose media can be opened, with their encoded prompts."""
    prompted = []
    for example in examples:
        prompt = encoder.prompt(example)
        if prompt is not None:
            prompted.append((example, Prompt(prompt.ids, (), prompt.extras)))
    if not prompted:
        raise UsageError("none of the chosen questions could be asked: their media cannot be opened")
    return prompted


def _answers(encoder: ExampleEncoder, prompted: Prompted, batch_size: int) -> list[tuple[str, Image | None]]:
    """The model's greedy answers as it is now; PICTURE stands for the picture of an answer that has one."""
    answers: list[tuple[int, ...]] = []
    for chunk in batches(prompted, batch_size):
        generated = encoder.generate([example for example, _ in chunk], [prompt for _, prompt in chunk])
        answers += [tuple(ids) for ids in generated]
    texts: list[tuple[str, Image | None]] = [(encoder.live.encoder.decode(ids).strip(), None) for ids in answers]
    places = [i for i, (example, _) in enumerate(prompted) if example.target == IMAGE]
    if places:
        drawings = Drawings(encoder.live, encoder.dataset, encoder.job)
        pictures = pictures_in(drawings, [prompted[i][1] for i in places], [answers[i] for i in places], batch_size)
        for i, picture in zip(places, pictures, strict=True):
            if picture is not None:
                texts[i] = (PICTURE, picture)
    return texts


def _record(
    asked: Asked, prepared: PreparedJob, prompted: Prompted, said: dict[str, list[tuple[str, Image | None]]]
) -> None:
    for place, (example, _) in enumerate(prompted):
        row: dict[str, Any] = {"example": example.id, "source": example.source, "prompt": example.prompt}
        row |= {"task": example.task, "media": list(example.media), "reference": example.answer}
        row["subset"] = subset_of(example, asked.concept)
        for condition, answers in said.items():
            text, picture = answers[place]
            row[condition] = text
            if picture is not None:
                asked.drawn[example.id, condition] = np.asarray(picture.convert("RGB"))
        asked.rows.append(row)
        if (shown := _first_picture(prepared.dataset, example)) is not None:
            asked.seen[example.id] = np.asarray(shown.convert("RGB"))


def _first_picture(dataset: Dataset, example: Example) -> Image | None:
    """The first picture of an example, or frame of its video."""
    if example.media and example.source == IMAGE:
        return dataset.image(example.media[0])
    if example.media and example.source == VIDEO:
        frames: list[Image] = dataset.video(example.media[0])  # type: ignore[attr-defined]
        return frames[0]
    return None
