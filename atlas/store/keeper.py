"""Keeps an atlas open between questions, which takes a question's opening away, and gives way to whoever writes."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from atlas.errors import AtlasError
from atlas.store.database import PATIENCE, open_readonly
from atlas.store.waiting_writer import writer_waits

IDLE = 2.0
"""Seconds without a question after which the atlas is closed."""

_LOOK = 0.05
"""Seconds between two looks for a writer."""


class Keeper:
    """Keeps one atlas open from its first question until there was none for `idle` seconds, or a writer waits.

    DuckDB shares one instance among the connections of a process, so that questions asked meanwhile open it at once.
    """

    def __init__(self, path: Path, *, idle: float = IDLE):
        self.path, self._idle = path, idle
        self._changed = threading.Condition()
        self._asked = -math.inf
        self._asking = 0
        self._writing = 0
        self._stopped = False
        self.is_open = False
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)
        self._thread.start()

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Around a question. It begins when no writer waits any more, at the latest after `PATIENCE`."""
        until = time.monotonic() + PATIENCE
        while writer_waits(self.path) and time.monotonic() < until:
            time.sleep(_LOOK)
        with self._changed:
            self._changed.wait_for(lambda: not self._writing, timeout=max(0.0, until - time.monotonic()))
            self._asking += 1
            self._asked = time.monotonic()
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._asking -= 1
                self._asked = time.monotonic()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Around what this process writes: the atlas is closed, and questions that come now wait for the end of the
        block, at the latest for `PATIENCE`. Otherwise a writer would never have its turn while questions come."""
        with self._changed:
            self._writing += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self.is_open, timeout=PATIENCE)
        try:
            yield
        finally:
            with self._changed:
                self._writing -= 1
                self._changed.notify_all()

    def stop(self) -> None:
        """Close the atlas for good."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        while self._wait_for_a_question():
            try:
                with open_readonly(self.path, pinned=False):
                    self._set_open(True)
                    self._keep()
            except AtlasError:  # the question that is asked now meets the same error, and says it
                time.sleep(_LOOK)
            finally:
                self._set_open(False)

    def _wait_for_a_question(self) -> bool:
        with self._changed:
            while not self._stopped and not (self._wanted() and not writer_waits(self.path)):
                self._changed.wait(_LOOK if self._wanted() else None)
            return not self._stopped

    def _keep(self) -> None:
        with self._changed:
            while not self._stopped and self._wanted() and not writer_waits(self.path):
                self._changed.wait(_LOOK)

    def _wanted(self) -> bool:
        if self._writing:
            return False
        return self._asking > 0 or time.monotonic() - self._asked < self._idle

    def _set_open(self, is_open: bool) -> None:
        with self._changed:
            self.is_open = is_open
            self._changed.notify_all()
