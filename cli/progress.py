"""How far long work is, on stderr."""

from __future__ import annotations

import sys
import time
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
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        rate = TextColumn("{task.fields[rate]}")
        columns = (BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn())
        started = time.monotonic()
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("", total=None, rate="")

            def advance(done: int, total: int) -> None:
                each = done / max(time.monotonic() - started, 1e-9)
                bar.update(task, completed=done, total=total, rate=f"{each:.1f}/s")

            yield advance
    else:
        started = last = time.monotonic()

        def line(done: int, total: int) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= 5:
                last = now
                rate = done / (now - started)
                say(f"{done} of {total}, {rate:.1f}/s, {(total - done) / rate:.0f} s to go")

        yield line
