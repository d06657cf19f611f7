"""A part of a page: a question, its answer as a table or a figure, and how to ask it elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from atlas.errors import AtlasError, StoreUnavailable
from atlas.figures._style import caption
from atlas.query.answer import Answer
from atlas.query.question import Question
from cli.web import copy_as, links
from cli.web.asking import Asking
from cli.web.cells import Cell, cells
from cli.web.problems import detail_of

ROWS = 20
"""Rows of a table on a page; the files have all."""


@dataclass(frozen=True, slots=True)
class Part:
    """A question on a page, not asked yet.

    question: None where no question gives the rows, which the page then has itself. about: a sentence above its answer.
    figure, table: whether its figure and its rows are shown. model: whose neurons the rows are. rows: how many are
    shown. deferred: whether a browser asks for it when the page is there, as it takes its time; `?whole=1` has it at
    once.
    """

    key: str
    title: str
    question: Question[Any] | None
    about: str = ""
    figure: bool = False
    table: bool = True
    model: str | None = None
    rows: int = ROWS
    deferred: bool = False

    @property
    def asked(self) -> Question[Any]:
        """The question of a part that has one."""
        assert self.question is not None, self.key
        return self.question

    def answered(self, asking: Asking) -> Section:
        """The part with its answer, or with the sentence that says why there is none.

        Raises:
            StoreUnavailable: the atlas cannot be read now, which is about the whole page.
        """
        try:
            return Section(self, asking.ask(self.asked))
        except StoreUnavailable:
            raise
        except AtlasError as error:
            return Section(self, None, detail_of(error))


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a page with its answer. problem: why there is none, and what to type."""

    part: Part
    answer: Answer | None
    problem: str | None = None

    @property
    def names(self) -> list[str]:
        """The columns that are shown."""
        return [] if self.answer is None else cells(self._shown(), self.part.model)[0]

    @property
    def cells(self) -> list[list[Cell]]:
        """The cells of the rows that are shown."""
        return [] if self.answer is None else cells(self._shown(), self.part.model)[1]

    def _shown(self) -> Any:
        assert self.answer is not None
        return next(iter(self.answer.readable().values())).slice(0, self.part.rows)

    @property
    def more(self) -> int:
        """How many rows are not shown."""
        return 0 if self.answer is None else max(0, len(self.answer) - self.part.rows)

    @property
    def lines(self) -> Sequence[str]:
        """What was filled in, and notes."""
        return () if self.answer is None else (*(f"using {text}" for text in self.answer.defaults), *self.answer.notes)

    @property
    def runs(self) -> str:
        """The runs behind the numbers."""
        return "" if self.answer is None else caption(self.answer)

    @property
    def command(self) -> str:
        """The question on the command line."""
        return copy_as.command_line(self.part.asked)

    @property
    def python(self) -> str:
        """The question in Python."""
        return copy_as.python(self.part.asked)

    @property
    def data(self) -> str:
        """The question in the API."""
        return links.data(self.part.asked)

    @property
    def csv(self) -> str:
        """Its rows as a file."""
        return links.data(self.part.asked, ".csv")

    @property
    def drawing(self) -> str:
        """Its figure."""
        return links.figure(self.part.asked)
