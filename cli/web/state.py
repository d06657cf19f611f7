"""What an atlas's answers depend on, as one short text: the mark by which browsers know that nothing has changed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from atlas.store.database import database_file, wal
from atlas.store.pins_file import NAME as PINS

FOLDERS = ("edits", "selections", "vectors")


def state_of(path: Path) -> str:
    """16 hex digits of the times and sizes of the files that answers are made from, and of this program's version."""
    digest = hashlib.sha256(version("neuron-atlas").encode())
    for file in _files(path):
        try:
            about = file.stat()
        except FileNotFoundError:
            continue
        digest.update(f"{file.relative_to(path)} {about.st_mtime_ns} {about.st_size}\n".encode())
    return digest.hexdigest()[:16]


def _files(path: Path) -> Iterator[Path]:
    yield from (database_file(path), wal(path), path / PINS)
    for folder in FOLDERS:
        yield path / folder  # which changes when a file comes or goes
        yield from sorted((path / folder).glob("**/*"))
