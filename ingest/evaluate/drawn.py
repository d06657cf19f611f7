"""Requests for pictures put to a model under any number of conditions, and the pictures judged."""

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
    """Held-out requests; every picture is drawn from the same noise under every condition.

    goal: the concept that an edit makes of another, for `became`. pictures: of each call of `ask`, in the order of
    `asked`; None where the answer had none.
    """

    def __init__(
        self,
        feed: ExampleEncoder,
        examples: Sequence[Example],
        judge: PictureJudge,
        batch_size: int,
        goal: str | None = None,
    ):
        self.live, self.feed, self.judge, self.batch_size, self.goal = feed.live, feed, judge, batch_size, goal
        self.drawings = Drawings(feed.live, feed.dataset, feed.job)
        self.asked: list[tuple[Example, Prompt]] = []
        for example in examples:
            prompt = feed.prompt(example) if example.target == IMAGE else None
            if prompt is not None:
                self.asked.append((example, Prompt(prompt.ids, (), prompt.extras)))
        self.pictures: list[list[Image | None]] = []
        self._regions: list[np.ndarray | None] = []

    def ask(self) -> Scores:
        """picture: whether the answer has one. drawn: whether the judge sees the concept that was asked for, and
        drawn_probability how sure it is, among all concepts that it knows. became: whether it sees the goal, NaN where
        that was asked for. region_overlap: of the segmenter's region
        with that of the first time (intersection over union)."""
        first = not self.pictures
        pictures = self._draw(first)
        self.pictures.append(pictures)
        known = self.judge.known(list(self.feed.dataset.concepts.values()))
        place = {concept.name: i for i, concept in enumerate(known)}
        count = len(pictures)
        values = {name: np.zeros(count) for name in (PICTURE, DRAWN, PROBABILITY, BECAME)}
        there = [i for i, picture in enumerate(pictures) if picture is not None]
        for some in batches(there, 32):
            probabilities, best = self.judge.judge([p for i in some if (p := pictures[i]) is not None], known)
            for at, i in enumerate(some):
                mine = place[self.asked[i][0].mentions[0].concept]
                values[PICTURE][i] = 1
                values[DRAWN][i] = best[at] == mine
                values[PROBABILITY][i] = probabilities[at, mine]
                # What was asked for is not an effect: requests for the goal itself do not count.
                values[BECAME][i] = (
                    np.nan if self.goal == known[mine].name else best[at] == place.get(str(self.goal), -2)
                )
        if self.goal is None:
            del values[BECAME]
        values[OVERLAP] = self._overlaps(pictures, first)
        told = tuple(
            QuestionKey(e.source, e.task, e.mentions[0].concept, frozenset(m.concept for m in e.mentions), e.cluster)
            for e, _ in self.asked
        )
        return Scores(told, values)

    def _draw(self, first: bool) -> list[Image | None]:
        """The pictures of the model's answers as it is now."""
        found: list[Image | None] = [None] * len(self.asked)
        if first:
            stored = self.feed.answers(self.asked, self.batch_size)
            answers = [stored[example.id] for example, _ in self.asked]
        else:
            answers = []
            for some in batches(self.asked, self.batch_size):
                made = self.feed.generate([example for example, _ in some], [prompt for _, prompt in some])
                answers += [tuple(ids) for ids in made]
        drawn = [i for i, ids in enumerate(answers) if self.live.drawer.places(ids) is not None]
        for chosen in batches(drawn, self.batch_size):
            prompts = [self.asked[i][1].answered(answers[i]) for i in chosen]
            for i, picture in zip(chosen, self.drawings.pictures(prompts), strict=True):
                found[i] = picture
        return found

    def _overlaps(self, pictures: Sequence[Image | None], first: bool) -> np.ndarray:
        """NaN where there was no region the first time, 0 where there is none now."""
        regions = [
            None if p is None else self.drawings.segmenter.find(p, self._concept(i)) for i, p in enumerate(pictures)
        ]
        if first:
            self._regions = regions
        out = np.full(len(pictures), np.nan)
        for i, (before, now) in enumerate(zip(self._regions, regions, strict=True)):
            if before is not None:
                out[i] = 0.0 if now is None else float((before & now).sum() / max(1, (before | now).sum()))
        return out

    def _concept(self, number: int) -> Concept:
        return self.feed.dataset.concepts[self.asked[number][0].mentions[0].concept]

    def save(self, folder: Path) -> int:
        """Write each request's pictures before and with the edit, NUMBER-CONCEPT-before.png and -edit.png, in place of
        those of an earlier evaluation; how many."""
        folder.mkdir(parents=True, exist_ok=True)
        for old in (*folder.glob("[0-9][0-9][0-9]*-before.png"), *folder.glob("[0-9][0-9][0-9]*-edit.png")):
            old.unlink()
        count = 0
        for when, pictures in zip(("before", "edit"), self.pictures, strict=False):
            for number, picture in enumerate(pictures):
                if picture is not None:
                    picture.save(folder / f"{number:03d}-{self._concept(number).name.replace('/', '_')}-{when}.png")
                    count += 1
        lines = [f"{n:03d}\t{e.mentions[0].concept}\t{e.prompt}" for n, (e, _) in enumerate(self.asked)]
        (folder / "requests.tsv").write_text("\n".join(["number\tconcept\trequest", *lines]) + "\n", encoding="utf-8")
        return count
