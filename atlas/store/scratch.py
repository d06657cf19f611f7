"""A folder in the atlas for what one command makes, gone when it ends. What a killed one left, the next removes."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from atlas.store.duckdb_errors import unwritable


@contextmanager
def scratch_folder(path: Path, purpose: str) -> Iterator[Path]:
    """Make `<purpose>-...` in the atlas for the block.

    Raises:
        StoreUnavailable: the atlas's folder cannot be written.
    """
    with ExitStack() as held:
        try:
            with folder_lock(path):  # none is swept before it is locked
                _sweep(path, purpose)
                folder = Path(tempfile.mkdtemp(prefix=f"{purpose}-", dir=path))
                held.callback(shutil.rmtree, folder, ignore_errors=True)
                lock = held.enter_context((folder / "lock").open("w"))
                fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            raise unwritable(path, error) from error
        yield folder


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """While the block lasts no other process that asks for it is alone in the folder."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _sweep(path: Path, purpose: str) -> None:
    """Remove the scratch folders whose process has ended."""
    for folder in path.glob(f"{purpose}-*"):
        try:
            with (folder / "lock").open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:  # killed before it had one
            pass
        except OSError:
            continue
        shutil.rmtree(folder, ignore_errors=True)
