"""A temporary folder in the atlas for one command, removed when it ends; leftovers of a killed one go later."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from atlas.store.duckdb_errors import unwritable


@contextmanager
def scratch_folder(path: Path, purpose: str) -> Iterator[Path]:
    """Create `<purpose>-...` in the atlas for the block.

    Raises:
        StoreUnavailable: the atlas's folder cannot be written.
    """
    with ExitStack() as held:
        try:
            with folder_lock(path):  # so that none is removed before it is locked
                _sweep(path, purpose)
                folder = Path(tempfile.mkdtemp(prefix=f"{purpose}-", dir=path))
                held.callback(shutil.rmtree, folder, ignore_errors=True)
                lock = held.enter_context((folder / "lock").open("w"))
                fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            raise unwritable(path, error) from error
        yield folder


@contextmanager
def folder_lock(folder: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the lock of a folder while the block lasts; other processes that want it wait, and call `waiting` first."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
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
        except FileNotFoundError:  # killed before it created one
            pass
        except OSError:
            continue
        shutil.rmtree(folder, ignore_errors=True)
