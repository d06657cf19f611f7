"""How far long work is, on stderr."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from cli.common import say

NoProgress = Annotated[bool, typer.Option("--no-progress", help="No progress on stderr.")]


class Reporter:
    """Is told how many are done, of how many; here, nobody watches."""

    def __init__(self) -> None:
        self.name, self.pace = "", Pace()

    def phase(self, name: str) -> None:
        """Another kind of work begins, which is counted anew."""
        self.name, self.pace = name, Pace()

    def __call__(self, done: int, total: int) -> None:
        """`done` of `total` are done."""


class Bar(Reporter):
    """A bar on a terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        super().__init__()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[pace]}"),
        )
        self.bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self.task = self.bar.add_task("", total=None, pace="")

    def __call__(self, done: int, total: int) -> None:
        self.bar.start()  # not before: something may be asked first
        pace = self.pace.after(done, total)
        self.bar.update(self.task, completed=done, total=total, pace=pace, description=self.name)


class Lines(Reporter):
    """A line every few seconds, where there is no terminal."""

    def __init__(self) -> None:
        super().__init__()
        self.last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        pace, now = self.pace.after(done, total), time.monotonic()
        if now - self.last >= 5:
            self.last = now
            say(f"{f'{self.name}: ' if self.name else ''}{done} of {total}{', ' if pace else ''}{pace}")


@contextmanager
def progressing(off: bool) -> Iterator[Reporter]:
    """A bar on a terminal, a line every few seconds elsewhere, both on stderr."""
    if off:
        yield Reporter()
    elif sys.stderr.isatty():
        bar = Bar()
        try:
            yield bar
        finally:
            bar.bar.stop()
    else:
        yield Lines()


class Pace:
    """How fast work goes, and how long it still takes: by the last half minute of it, and not by its beginning, where
    a model warms up and what an earlier try had done is taken over."""

    WINDOW = 30.0

    def __init__(self) -> None:
        self._ticks: deque[tuple[float, int]] = deque()

    def after(self, done: int, total: int) -> str:
        """The rate and the seconds to go; nothing where so far only one step was seen."""
        now = time.monotonic()
        self._ticks.append((now, done))
        while len(self._ticks) > 2 and self._ticks[1][0] < now - self.WINDOW:
            self._ticks.popleft()
        first, had = self._ticks[0]
        if now <= first or done <= had:
            return ""
        rate = (done - had) / (now - first)
        return f"{rate:.1f}/s, {(total - done) / rate:.0f} s to go"
