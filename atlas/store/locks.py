"""Which threads of this process have a database open, and how.

DuckDB keeps one instance of a file per process, with one set of settings: threads that need the same settings share it,
others wait for each other. Other processes are kept out by DuckDB's own lock on the file.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from atlas.errors import StoreUnavailable

ASK, COMPARE, WRITE = "asking", "comparing", "writing"
"""Reading only the database, reading it and `runs/`, writing it."""

LONGEST = 600.0
"""Seconds that a thread waits for others of its process: the largest runs take minutes to load."""

_GIVING_WAY = 1.0
"""Seconds for which threads that want to read give way to one that waits to write."""


@dataclass
class _Use:
    """How one database is open. holders: how often each thread has it open. writers: how many threads wait to write."""

    mode: str = ASK
    holders: Counter[int] = field(default_factory=Counter)
    writers: int = 0

    def admits(self, mode: str, thread: int, gives_way: bool) -> bool:
        if not self.holders:
            return mode == WRITE or not (gives_way and self.writers)
        shared = mode == self.mode != WRITE
        return shared and (thread in self.holders or not (gives_way and self.writers))


_changed = threading.Condition()
_uses: dict[Path, _Use] = {}


def _forget() -> None:
    """A forked child has none of its parent's threads."""
    global _changed
    _changed = threading.Condition()
    _uses.clear()


os.register_at_fork(after_in_child=_forget)


@contextmanager
def database_lock(file: Path, mode: str) -> Iterator[None]:
    """Hold a database while the block lasts, exclusively or shared with threads of the same mode.

    Raises:
        StoreUnavailable: this thread has it open in another mode, or another one does not finish.
    """
    key, thread = file.resolve(), threading.get_ident()
    with _changed:
        use = _uses.setdefault(key, _Use())
        use.writers += mode == WRITE
        try:
            _wait(use, mode, thread, file.parent)
        finally:
            use.writers -= mode == WRITE
        use.mode = mode
        use.holders[thread] += 1
    try:
        yield
    finally:
        with _changed:
            use.holders[thread] -= 1
            use.holders = +use.holders
            _changed.notify_all()


def _wait(use: _Use, mode: str, thread: int, path: Path) -> None:
    started = time.monotonic()
    while not use.admits(mode, thread, time.monotonic() < started + _GIVING_WAY):
        if thread in use.holders:
            raise StoreUnavailable(f"this process has the atlas at {path} open in another mode; close that one first")
        if time.monotonic() > started + LONGEST:
            raise StoreUnavailable(f"another thread of this process is still {use.mode} the atlas at {path}")
        _changed.wait(0.1)
