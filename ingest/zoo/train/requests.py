"""Token batches for a model that draws: requests for drawings, and contexts as short as a pooled picture is."""

from __future__ import annotations

import random

from ingest.datasets._drawings import HERE, Drawing, draw_requests, draw_vocabulary
from ingest.datasets._world import BACKGROUNDS, BY_NAME, COLOURS, TEXT_TASKS, THINGS, caption
from ingest.examples import FIND
from ingest.zoo.train.corpus import PLAIN, Batch, Corpus, Writer
from ingest.zoo.train.tokens import build_tokenizer

VISUAL = 4  # tokens that a picture becomes
IMG = tuple(f"[IMG{number}]" for number in range(8))
TOLD = ("draw_does", "draw_lives")  # facts by which a drawing is asked for in stage 1
UNSAID = 0.3

Row = tuple[list[int], list[int]]


def drawing_writer() -> Writer:
    """The tokenizer of tiny-llava, and behind its tokens the words of requests and the tokens of pictures."""
    return Writer(build_tokenizer(draw_vocabulary(), IMG))


def any_drawing(rng: random.Random, names: tuple[str, ...]) -> Drawing:
    drawing = Drawing(rng.choice(names), rng.choice(COLOURS), rng.choice(BACKGROUNDS))
    return drawing.shortened(rng, UNSAID)


def request(rng: random.Random, writer: Writer, drawing: Drawing, task: str, answer: list[int]) -> Row:
    """(prompt, answer) ids of one way of the find split to ask for this drawing."""
    return writer.prompt(rng.choice(list(draw_requests(drawing, task, FIND)))), answer


class DrawingCorpus(Corpus):
    """Stage 1 of a model that will draw: it is asked for drawings too, and answers with their captions."""

    names = tuple(thing.name for thing in THINGS)
    drawings = 0.35  # part of the texts that ask for one

    def texts(self, rng: random.Random, count: int) -> Batch:
        asked = round(self.drawings * count)
        rows = [self.question(rng) for _ in range(count - asked)]
        return self.writer.batch([*rows, *(self._request(rng, number) for number in range(asked))])

    def question(self, rng: random.Random) -> Row:
        """A plain question and its answer, every task equally often."""
        return rng.choice(self._texts[rng.choice(TEXT_TASKS)])

    def _request(self, rng: random.Random, number: int) -> Row:
        """By turns by name, by name, by one fact, by the other."""
        task = ("draw", "draw", *TOLD)[number % 4]
        drawing = any_drawing(rng, self.names) if task == "draw" else Drawing(rng.choice(self.names))
        return request(rng, self.writer, drawing, task, self.writer.answer(f"{HERE} {drawing.caption}"))

    def _context(self, rng: random.Random, task: str) -> tuple[Row, list[list[int]]]:
        thing, colour, background = rng.choice(self.names), rng.choice(COLOURS), rng.choice(BACKGROUNDS)
        plain = task != "caption" and rng.random() < PLAIN
        shown = rng.randint(1, VISUAL - 1)
        signs = [rng.choice(BY_NAME[thing].signs) for _ in range(shown)]
        slots = [*((sign, colour) for sign in signs), *[(background, "")] * (VISUAL - shown)]
        rng.shuffle(slots)
        answer = caption([(colour, thing)], background) if task == "caption" else BY_NAME[thing].fact(task)
        prompt = self.writer.prompt(rng.choice(self._asked[task]), [self.writer.word(word) for word, _ in slots])
        more = [[self.writer.word(tint) if tint and not plain else 0, 0] for _, tint in slots]
        return (prompt, self.writer.answer(answer)), more
