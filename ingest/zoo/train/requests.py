"""Token batches for a model that draws: requests for drawings, and contexts as short as a pooled picture is.

Before a request is answered with a picture, the eight tokens of pictures are blanks: at each of them the language model
learns to tell one part of the caption. So its neurons have something to say there when it is frozen and the mapper
listens; a language model that has read the web brings that along.
"""

from __future__ import annotations

import random
from functools import cached_property

import torch

from ingest.data.examples import FIND
from ingest.datasets._drawings import HERE, Drawing, draw_requests, draw_vocabulary
from ingest.datasets._world import BACKGROUNDS, BY_NAME, COLOURS, TEXT_TASKS, THINGS, caption
from ingest.zoo.train.corpus import IGNORED, PLAIN, Batch, Corpus, Writer
from ingest.zoo.train.tokens import EOS, build_tokenizer

VISUAL = 4  # tokens that a picture becomes
IMG = tuple(f"[IMG{number}]" for number in range(8))
TOLD = ("draw_does", "draw_lives")  # facts by which a drawing is asked for in stage 1
UNSAID = 0.3

Row = tuple[list[int], list[int]]


def drawing_writer() -> Writer:
    """The tokenizer of tiny-llava, and behind its tokens the words of requests and the tokens of pictures."""
    return Writer(build_tokenizer(draw_vocabulary(), IMG))


def any_drawing(rng: random.Random, names: tuple[str, ...]) -> Drawing:
    """A random drawing of one of these things, with colour and background each dropped at times."""
    drawing = Drawing(rng.choice(names), rng.choice(COLOURS), rng.choice(BACKGROUNDS))
    return drawing.shortened(rng, UNSAID)


def blanks(writer: Writer, drawing: Drawing) -> list[int]:
    """What is told at [IMG0..7]: article, colour, the name's one or two tokens, "on", "the", background, and the end;
    the end too for what is not spoken of."""
    (end,) = writer.ids(EOS)
    article, *named = writer.ids(f" {Drawing(drawing.name, drawing.colour).caption}")
    name = named[1:] if drawing.colour else named
    placed = writer.ids(f" on the {drawing.background}") if drawing.background else [end] * 3
    return [article, named[0] if drawing.colour else end, *name, *[end] * (2 - len(name)), *placed, end]


def request(rng: random.Random, writer: Writer, drawing: Drawing, task: str, answer: list[int]) -> Row:
    """(prompt, answer) ids of one way of the find split to ask for this drawing."""
    return writer.prompt(rng.choice(list(draw_requests(drawing, task, FIND)))), answer


class DrawingCorpus(Corpus):
    """Stage 1 of a model that will draw: it is asked for drawings too, and answers with their captions, in words or
    all at once in blanks."""

    names = tuple(thing.name for thing in THINGS)
    drawings = 0.4  # part of the texts that ask for one

    def texts(self, rng: random.Random, count: int) -> Batch:
        drawing_count = round(self.drawings * count)
        rows = [self.question(rng) for _ in range(count - drawing_count)]
        drawings = [self._drawing(rng, number) for number in range(drawing_count)]
        spoken, blank = drawings[: drawing_count // 2], drawings[drawing_count // 2 :]
        rows += [
            request(rng, self.writer, drawing, task, self.writer.answer(f"{HERE} {drawing.caption}"))
            for drawing, task in spoken
        ]
        rows += [request(rng, self.writer, drawing, task, self.picture) for drawing, task in blank]
        batch = self.writer.batch(rows)
        for row, (drawing, _) in enumerate(blank, len(rows) - len(blank)):
            start = len(rows[row][0])
            # What is told at a token is the label of the place behind it.
            batch.labels[row, start : start + 9] = torch.tensor([IGNORED, *blanks(self.writer, drawing)])
        return batch

    @cached_property
    def picture(self) -> list[int]:
        """The answer that is a picture."""
        return self.writer.ids(f" {''.join(IMG)}{EOS}")

    def question(self, rng: random.Random) -> Row:
        """A plain question and its answer, every task equally often."""
        return rng.choice(self._texts[rng.choice(TEXT_TASKS)])

    def _drawing(self, rng: random.Random, number: int) -> tuple[Drawing, str]:
        """By turns by name, by name, by one fact, by the other."""
        task = ("draw", "draw", *TOLD)[number % 4]
        return any_drawing(rng, self.names) if task == "draw" else Drawing(rng.choice(self.names)), task

    def _context(self, rng: random.Random, task: str) -> tuple[Row, list[list[int]]]:
        thing, colour, background = rng.choice(self.names), rng.choice(COLOURS), rng.choice(BACKGROUNDS)
        plain = task != "caption" and rng.random() < PLAIN
        shown = rng.randint(1, VISUAL - 1)
        signs = [rng.choice(BY_NAME[thing].signs) for _ in range(shown)]
        slots = [*((sign, colour) for sign in signs), *[(background, "")] * (VISUAL - shown)]
        rng.shuffle(slots)
        answer = caption([(colour, thing)], background) if task == "caption" else BY_NAME[thing].fact(task)
        prompt = self.writer.prompt(rng.choice(self.wordings[task]), [self.writer.word(word) for word, _ in slots])
        extra = [[self.writer.word(tint) if tint and not plain else 0, 0] for _, tint in slots]
        return (prompt, self.writer.answer(answer)), extra
