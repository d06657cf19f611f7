"""DuckDB's errors as messages that say what to do."""

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
    """Within the block, turn DuckDB's errors about the file as a whole into the atlas's own; others pass unchanged.

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
    """The atlas's error for one of DuckDB's, or None where it is not about the file as a whole."""
    original = getattr(error, "orig", error)  # SQLAlchemy wraps it; checked without importing it
    if not isinstance(original, duckdb.Error):
        return None
    message = str(original)
    if LOCKED in message:
        return _locked(message, path, read_only=read_only)
    if "different configuration" in message:
        return StoreUnavailable(f"this process has the atlas at {path} open in another mode; close that one first")
    if "database file with version number" in message:
        return StoreUnavailable(f"the atlas at {path} was written by a newer DuckDB; `pip install --upgrade duckdb`")
    if is_full(original):
        return full(path)
    if any(sign in message for sign in _UNWRITABLE):
        return _unwritable(path)
    if any(sign in message for sign in _DAMAGE):
        return IntegrityError(
            f"the database of the atlas at {path} is damaged ({_first_line(message)}); nothing was deleted: "
            f"`atlas db rebuild --atlas {path}` builds a new one from runs/ and edits/ and keeps the old file"
        )
    return None


def is_full(error: duckdb.Error) -> bool:
    """Whether an error is about a full disk or quota."""
    return any(sign in str(error) for sign in _FULL)


def full(path: Path) -> StoreUnavailable:
    """The error for a full disk, or a limit on the size of files."""
    return StoreUnavailable(
        f"the disk of {path} is full; nothing that was stored before is lost: free some space, then try again"
    )


def unwritable(path: Path, error: OSError) -> StoreUnavailable:
    """The error for a folder that cannot be created or written."""
    if error.errno in NO_ROOM:
        return full(path)
    return StoreUnavailable(f"cannot write the atlas at {path} ({error.strerror}); give another folder as [[atlas]]")


def _unwritable(path: Path) -> StoreUnavailable:
    return StoreUnavailable(
        f"cannot write the atlas at {path}: the folder or its database is read-only for this user; "
        "reading works (`atlas query`); to write, copy it to a folder of your own and give that as [[atlas]]"
    )


def _locked(message: str, path: Path, *, read_only: bool) -> StoreUnavailable:
    holder = re.search(r"PID (\d+)", message)
    who = f"process {holder[1]}" if holder else "another process"
    # DuckDB adds this only where the holder of the lock is a reader.
    if "in read-only mode" in message:
        return StoreUnavailable(f"{who} is reading the atlas at {path}; close it, then try again")
    doing = "reading" if read_only else "writing"
    return StoreUnavailable(
        f"{who} is writing the atlas at {path} (an ingest?); {doing} it has to wait: try again when it has finished"
    )


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0][:200]
