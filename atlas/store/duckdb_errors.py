"""What DuckDB says when something is wrong, turned into what to do about it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from atlas.errors import AtlasError, IntegrityError, StoreUnavailable
from atlas.store.atomic import NO_ROOM

_DAMAGE = (
    "not a valid DuckDB database file",
    "Could not read enough bytes",
    "Corrupt database file",
    "does not match stored checksum",
    "Failure while replaying WAL",
    "Failed to deserialize",
    "Serialization Error",
)
LOCKED = "Could not set lock"
_UNWRITABLE = ("Permission denied", "Read-only file system", "Operation not permitted", "in read-only mode!")
_FULL = ("No space left on device", "Disk quota exceeded", "File too large")


@contextmanager
def translate_duckdb_errors(path: Path, *, read_only: bool) -> Iterator[None]:
    """Within the block, DuckDB's errors about the file as a whole become the atlas's own; others pass unchanged.

    Ctrl-C during a query is KeyboardInterrupt, as everywhere else.
    """
    try:
        yield
    except RuntimeError as error:
        if str(error) != "Query interrupted":
            raise
        raise KeyboardInterrupt from error
    except Exception as error:
        clear = explain(error, path, read_only=read_only)
        if clear is None:
            raise
        raise clear from error


def explain(error: Exception, path: Path, *, read_only: bool) -> AtlasError | None:
    """The clear error for what DuckDB said, or None where the error is not about the file as a whole."""
    original = getattr(error, "orig", error)  # what SQLAlchemy wraps; it is not imported for that
    if not isinstance(original, duckdb.Error):
        return None
    said = str(original)
    if LOCKED in said:
        return _locked(said, path, read_only=read_only)
    if "different configuration" in said:
        return StoreUnavailable(f"this process has the atlas at {path} open in another mode; close that one first")
    if "database file with version number" in said:
        return StoreUnavailable(f"the atlas at {path} was written by a newer DuckDB; `pip install --upgrade duckdb`")
    if is_full(original):
        return full(path)
    if any(sign in said for sign in _UNWRITABLE):
        return _unwritable(path)
    if any(sign in said for sign in _DAMAGE):
        return IntegrityError(
            f"the database of the atlas at {path} is damaged ({_first_line(said)}); nothing was deleted: "
            f"`atlas db rebuild --atlas {path}` makes a new one from runs/ and edits/ and keeps the old file"
        )
    return None


def is_full(error: duckdb.Error) -> bool:
    return any(sign in str(error) for sign in _FULL)


def full(path: Path) -> StoreUnavailable:
    """The clear error for a disk without room, or a limit on the size of files."""
    return StoreUnavailable(
        f"the disk of {path} is full; nothing that was stored before is lost: free some space, then try again"
    )


def unwritable(path: Path, error: OSError) -> StoreUnavailable:
    """The clear error for a folder that cannot be made or written."""
    if error.errno in NO_ROOM:
        return full(path)
    return StoreUnavailable(f"cannot write the atlas at {path} ({error.strerror}); give another folder with --atlas")


def _unwritable(path: Path) -> StoreUnavailable:
    return StoreUnavailable(
        f"cannot write the atlas at {path}: the folder or its database is read-only for this user; "
        "reading works (`atlas query`), to write copy it to a folder of your own and give that with --atlas"
    )


def _locked(said: str, path: Path, *, read_only: bool) -> StoreUnavailable:
    found = re.search(r"PID (\d+)", said)
    who = f"process {found[1]}" if found else "another process"
    # DuckDB adds this only where the holder of the lock is a reader.
    if "in read-only mode" in said:
        return StoreUnavailable(f"{who} is reading the atlas at {path}; close it, then try again")
    doing = "reading" if read_only else "writing"
    return StoreUnavailable(
        f"{who} is writing the atlas at {path} (an ingest?); {doing} it has to wait: try again when that has finished"
    )


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0][:200]
