"""Evaluate requests for pictures under any number of conditions: the pictures are drawn and judged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from atlas.live.encode import Prompt
from ingest.data.examples import IMAGE, Concept, Example
from ingest.draw.drawings import Drawings
from ingest.draw.picture_judge import PictureJudge
from ingest.evaluate.teacher_forced import QuestionKey, Scores
from ingest.run.encode_examples import ExampleEncoder, batches

if TYPE_CHECKING:
    from PIL.Image import Image

PICTURE, DRAWN, PROBABILITY, BECAME, OVERLAP = "picture", "drawn", "drawn_probability", "became", "region_overlap"


class DrawingEvaluator:
    """Held-out requests; each picture is drawn from the same noise under every condition.

    goal: the concept that an edit turns another one into, for `became`. pictures: of each call of `evaluate`, in the
    order of `prompts`; None where the answer had no picture.
    """

    def __init__(
        self,
        encoder: ExampleEncoder,
        examples: Sequence[Example],
        judge: PictureJudge,
        batch_size: int,
        goal: str | None = None,
    ):
        self.live, self.encoder, self.judge, self.batch_size, self.goal = encoder.live, encoder, judge, batch_size, goal
        self.drawings = Drawings(encoder.live, encoder.dataset, encoder.job)
        self.prompts: list[tuple[Example, Prompt]] = []
        for example in examples:
            prompt = encoder.prompt(example) if example.target == IMAGE else None
            if prompt is not None:
                self.prompts.append((example, Prompt(prompt.ids, (), prompt.extras)))
        self.pictures: list[list[Image | None]] = []
        self._regions: list[np.ndarray | None] = []

    def evaluate(self) -> Scores:
        """The scores of every request with the model as it is now.

        picture: whether the answer has one. drawn: whether the judge sees the requested concept; drawn_probability: its
        probability among all concepts that the judge knows. became: whether the judge sees the goal, NaN where the goal
        was requested. region_overlap: intersection over union of the segmenter's region and that of the first call."""
        first = not self.pictures
        pictures = self._draw(first)
        self.pictures.append(pictures)
        known = self.judge.known(list(self.encoder.dataset.concepts.values()))
        column = {concept.name: i for i, concept in enumerate(known)}
        count = len(pictures)
        values = {name: np.zeros(count) for name in (PICTURE, DRAWN, PROBABILITY, BECAME)}
        drawn_rows = [i for i, picture in enumerate(pictures) if picture is not None]
        for rows in batches(drawn_rows, 32):
            probabilities, best = self.judge.judge([p for i in rows if (p := pictures[i]) is not None], known)
            for position, i in enumerate(rows):
                requested = column[self.prompts[i][0].mentions[0].concept]
                values[PICTURE][i] = 1
                values[DRAWN][i] = best[position] == requested
                values[PROBABILITY][i] = probabilities[position, requested]
                # Drawing what was requested is not an effect: requests for the goal itself do not count.
                values[BECAME][i] = (
                    np.nan if self.goal == known[requested].name else best[position] == column.get(str(self.goal), -2)
                )
        if self.goal is None:
            del values[BECAME]
        values[OVERLAP] = self._overlaps(pictures, first)
        questions = tuple(
            QuestionKey(e.source, e.task, e.mentions[0].concept, frozenset(m.concept for m in e.mentions), e.cluster)
            for e, _ in self.prompts
        )
        return Scores(questions, values)

    def _draw(self, first: bool) -> list[Image | None]:
        """The pictures in the answers of the model as it is now."""
        if first:
            stored = self.encoder.answers(self.prompts, self.batch_size)
            answers = [stored[example.id] for example, _ in self.prompts]
        else:
            answers = []
            for chunk in batches(self.prompts, self.batch_size):
                generated = self.encoder.generate([example for example, _ in chunk], [prompt for _, prompt in chunk])
                answers += [tuple(ids) for ids in generated]
        return pictures_in(self.drawings, [prompt for _, prompt in self.prompts], answers, self.batch_size)

    def _overlaps(self, pictures: Sequence[Image | None], first: bool) -> np.ndarray:
        """NaN where there was no region in the first call, 0 where there is none now."""
        regions = [
            None if p is None else self.drawings.segmenter.find(p, self._concept(i)) for i, p in enumerate(pictures)
        ]
        if first:
            self._regions = regions
        overlaps = np.full(len(pictures), np.nan)
        for i, (before, now) in enumerate(zip(self._regions, regions, strict=True)):
            if before is not None:
                overlaps[i] = 0.0 if now is None else float((before & now).sum() / max(1, (before | now).sum()))
        return overlaps

    def _concept(self, number: int) -> Concept:
        return self.encoder.dataset.concepts[self.prompts[number][0].mentions[0].concept]

    def save(self, folder: Path) -> int:
        """Write each request's pictures, NUMBER-CONCEPT-before.png and -edit.png, replacing those of an earlier
        evaluation; returns how many."""
        folder.mkdir(parents=True, exist_ok=True)
        for old in (*folder.glob("[0-9][0-9][0-9]*-before.png"), *folder.glob("[0-9][0-9][0-9]*-edit.png")):
            old.unlink()
        count = 0
        for when, pictures in zip(("before", "edit"), self.pictures, strict=False):
            for number, picture in enumerate(pictures):
                if picture is not None:
                    picture.save(folder / f"{number:03d}-{self._concept(number).name.replace('/', '_')}-{when}.png")
                    count += 1
        lines = [f"{n:03d}\t{e.mentions[0].concept}\t{e.prompt}" for n, (e, _) in enumerate(self.prompts)]
        (folder / "requests.tsv").write_text("\n".join(["number\tconcept\trequest", *lines]) + "\n", encoding="utf-8")
        return count


def pictures_in(
    drawings: Drawings, prompts: Sequence[Prompt], answers: Sequence[Sequence[int]], batch_size: int
) -> list[Image | None]:
    """The picture in each answer of the model as it is now; None where it has none. answers: tokens."""
    pictures: list[Image | None] = [None] * len(prompts)
    drawn = [i for i, ids in enumerate(answers) if drawings.live.drawer.places(ids) is not None]
    for rows in batches(drawn, batch_size):
        answered = [prompts[i].answered(answers[i]) for i in rows]
        for i, picture in zip(rows, drawings.pictures(answered), strict=True):
            pictures[i] = picture
    return pictures
