"""How far long work is, on stderr."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from cli.common import say

NoProgress = Annotated[bool, typer.Option("--no-progress", help="No progress on stderr.")]


@contextmanager
def progressing(off: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, a line every few seconds elsewhere, both on stderr."""
    if off:
        yield lambda done, total: None
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[pace]}"))
        pace = Pace()
        bar = Progress(*columns, console=Console(stderr=True), transient=True)
        task = bar.add_task("", total=None, pace="")

        def advance(done: int, total: int) -> None:
            bar.start()  # not before: something may be asked first
            bar.update(task, completed=done, total=total, pace=pace.after(done, total))

        try:
            yield advance
        finally:
            bar.stop()
    else:
        last, pace = time.monotonic(), Pace()

        def line(done: int, total: int) -> None:
            nonlocal last
            pace_text, now = pace.after(done, total), time.monotonic()
            if now - last >= 5:
                last = now
                say(f"{done} of {total}{', ' if pace_text else ''}{pace_text}")

        yield line


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
