"""A file is finished, then renamed: nobody ever sees half of one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path


def finish(file: Path, write: Callable[[Path], object]) -> None:
    """Write under a temporary name, flush to the disk, rename. Folders above it are made."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f"{file.name}.partial")
    write(temporary)
    with temporary.open("rb") as handle:
        os.fsync(handle.fileno())
    temporary.replace(file)


def sha256(file: Path) -> str:
    """The sha256 of a file's bytes, in hex."""
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
