"""How far long work is, below the cell of a notebook that does it."""

from __future__ import annotations

import html
import importlib
import sys
import time
import warnings
from typing import Any

from ingest.requests.progress import Progress

EVERY = 0.2
"""Seconds between two pictures of the same bar."""


def watching() -> Progress:
    """A bar in a notebook; elsewhere nobody watches, as a program's output is its own."""
    if not in_notebook():
        return Progress()
    # Bars of other packages are text where the notebook has no widgets, which is no reason to warn of.
    warnings.filterwarnings("ignore", "IProgress not found")
    return Cell()


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


class Cell(Progress):
    """A bar that is replaced as it moves, and goes when the work is over; it needs no widgets."""

    def __init__(self) -> None:
        super().__init__()
        self._shown: Any = None
        self._last = 0.0

    def __call__(self, done: int, total: int) -> None:
        pace, now = self.pace.after(done, total), time.monotonic()
        if now - self._last >= EVERY or done == total:
            self._last = now
            self._show(bar(self.name, done, total, pace))

    def close(self) -> None:
        """Take the bar away."""
        if self._shown is not None:
            self._show("")

    def _show(self, markup: str) -> None:
        display: Any = importlib.import_module("IPython.display")
        content = display.HTML(markup)
        if self._shown is None:
            self._shown = display.display(content, display_id=True)
        else:
            self._shown.update(content)


def bar(name: str, done: int, total: int, pace: str) -> str:
    """The bar as HTML: `name`, how many are done of how many, and the pace."""
    words = " ".join(filter(None, [name, f"{done} of {total}", pace]))
    return f'<progress value="{done}" max="{total}"></progress> {html.escape(words)}'
