"""How a process that waits to write tells those that keep the database open for reading.

DuckDB lets nobody write while another process reads. A reader that lasts, such as the server, looks here and gives way.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

NAME = "atlas.duckdb.writer"
"""The file that a waiting writer touches, beside the database."""

STALE = 2.0
"""Seconds after which the file means nothing: a writer that waits touches it every 50 milliseconds."""


@contextmanager
def announcement(path: Path) -> Iterator[Announcement]:
    """For a writer of the atlas at a path: `touch` says that it waits; that is over with the block."""
    file = Announcement(path / NAME)
    try:
        yield file
    finally:
        file.withdraw()


class Announcement:
    """The file of a writer that waits, if it has to wait."""

    def __init__(self, file: Path):
        self._file, self._touched = file, False

    def touch(self) -> None:
        """Say that it still waits."""
        self._file.touch()
        self._touched = True

    def withdraw(self) -> None:
        """It waits no longer."""
        if self._touched:
            self._file.unlink(missing_ok=True)


def writer_waits(path: Path) -> bool:
    """Whether a process waits to write the atlas at a path."""
    with suppress(FileNotFoundError):
        return time.time() - (path / NAME).stat().st_mtime < STALE
    return False
