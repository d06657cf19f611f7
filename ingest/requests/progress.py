"""How far a request is: what it tells of its work, to whoever watches."""

from __future__ import annotations

import time
from collections import deque


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


class Progress:
    """Is told how many are done, of how many; here, nobody watches."""

    def __init__(self) -> None:
        self.name, self.pace = "", Pace()

    def phase(self, name: str) -> None:
        """Another kind of work begins, which is counted anew."""
        self.name, self.pace = name, Pace()

    def __call__(self, done: int, total: int) -> None:
        """`done` of `total` are done."""

    def close(self) -> None:
        """The work is over."""


silent = Progress()
"""Progress that nobody watches."""
