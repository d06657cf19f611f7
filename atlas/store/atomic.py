"""Files that are written completely, then renamed, so that no reader sees half of one."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from atlas.errors import UsageError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The errors of a full disk, a quota or a limit on the size of files."""


def write_atomically(file: Path, write: Callable[[Path], object]) -> None:
    """Write under a temporary name, flush to disk, rename. Parent folders are created.

    Raises:
        OSError: with the file's name; an incomplete file is removed.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f"{file.name}.partial")
    try:
        write(temporary)
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(file)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        number = _no_room(error)
        if number:
            raise OSError(number, os.strerror(number), str(file)) from error
        raise


def _no_room(error: BaseException) -> int | None:
    """The errno of an error about missing room, which safetensors and FAISS report only as text; None for others."""
    return next((n for n in NO_ROOM if f"os error {n})" in str(error) or os.strerror(n) in str(error)), None)


def sha256(file: Path) -> str:
    """The sha256 of a file's bytes, in hex."""
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def expand_home(path: str | Path) -> Path:
    """The path with `~` as the home folder.

    Raises:
        UsageError: it is the home folder of an unknown user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UsageError(f"{path}: there is no such home folder; give the full path") from error


def allowed_folders(root: Path) -> list[Path]:
    """The folders that may really contain files below `root`, with links resolved: itself and, for a snapshot in the
    HuggingFace Hub's cache, that repository's blobs, to which its files are links."""
    return [root.resolve(), *_blobs(root)]


def hub_blob(root: Path, file: Path) -> Path | None:
    """The file that a link below a snapshot in the Hub's cache leads to, among that repository's blobs, or None."""
    target = file.resolve()
    return target if any(target.is_relative_to(place) for place in _blobs(root)) else None


def _blobs(root: Path) -> list[Path]:
    snapshots = [place.parent for place in root.resolve().parents if place.name == "snapshots"]
    return [place / "blobs" for place in snapshots if (place / "blobs").is_dir()]
