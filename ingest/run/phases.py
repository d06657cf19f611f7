"""Where the seconds of a job go: loading the model, opening media, passes, each method, decoding, writing."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

ANSWERING, DECODING, ENCODING, PASSING = "answers", "decoding", "encoding", "passes"
LOADING, WRITING = "loading", "writing"
"""WRITING: the portions, the maps and the other tables; not loading these into the database, which comes after the
run's record."""


class Phases(Counter[str]):
    """Seconds by phase. What a GPU does is counted where the program waits for it: at the end of every phase, where
    `wait` does so."""

    wait: Callable[[], None] | None = None

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the seconds of the block."""
        started = time.perf_counter()
        try:
            yield
        finally:
            if self.wait is not None:
                self.wait()
            self[name] += time.perf_counter() - started  # type: ignore[assignment]

    def rounded(self) -> dict[str, float]:
        """The phases in the order of their seconds, those of a millisecond or more."""
        return {name: round(seconds, 3) for name, seconds in self.most_common() if seconds >= 0.001}
