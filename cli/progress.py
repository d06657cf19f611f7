"""How far long work is, on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from cli.common import say
from ingest.requests.progress import Progress

NoProgress = Annotated[bool, typer.Option("--no-progress", help="No progress on stderr.")]


class Bar(Progress):
    """A bar on a terminal."""

    def __init__(self) -> None:
        from rich import progress as rich_progress
        from rich.console import Console

        super().__init__()
        columns = (
            rich_progress.TextColumn("{task.description}"),
            rich_progress.BarColumn(),
            rich_progress.MofNCompleteColumn(),
            rich_progress.TextColumn("{task.fields[pace]}"),
        )
        self.bar = rich_progress.Progress(*columns, console=Console(stderr=True), transient=True)
        self.task = self.bar.add_task("", total=None, pace="")

    def __call__(self, done: int, total: int) -> None:
        self.bar.start()  # not before: something may be asked first
        pace = self.pace.after(done, total)
        self.bar.update(self.task, completed=done, total=total, pace=pace, description=self.name)

    def close(self) -> None:
        """Take the bar away."""
        self.bar.stop()


class Lines(Progress):
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
def progressing(off: bool) -> Iterator[Progress]:
    """A bar on a terminal, a line every few seconds elsewhere, both on stderr."""
    progress = Progress() if off else Bar() if sys.stderr.isatty() else Lines()
    try:
        yield progress
    finally:
        progress.close()
