"""Where a COCO folder keeps its annotation files and its pictures, as the well-known exporters write it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from unicodedata import normalize
from urllib.parse import unquote, urlsplit

from atlas.errors import UsageError
from ingest.datasets._files import FolderListing

INSTANCES = (
    "annotations/instances*.json",  # COCO, CVAT
    "annotations/lvis*.json",
    "instances*.json",
    "lvis*.json",
    "_annotations.coco.json",  # a split of Roboflow's
    "*/_annotations.coco.json",  # Roboflow
    "result.json",  # Label Studio
    "labels.json",  # FiftyOne
)
CAPTIONS = ("annotations/captions*.json", "captions*.json")
EXPECTED = (
    "annotations/instances*.json (COCO, CVAT) or lvis*.json, FOLDER/_annotations.coco.json (Roboflow), result.json "
    "(Label Studio) or labels.json (FiftyOne), and the pictures in images/, data/ or beside it"
)


def instance_files(root: Path, subset: str) -> list[Path]:
    """The files with boxes whose path contains `subset`, of the first layout that is present.

    Raises:
        UsageError: there are none; the message describes the expected layouts.
    """
    for pattern in INSTANCES:
        candidates = sorted(file for file in root.glob(pattern) if file.is_file())
        matching = _of(candidates, root, subset)
        if matching:
            return matching
        if candidates:
            names = ", ".join(file.relative_to(root).as_posix() for file in candidates)
            raise UsageError(f"{root} has no {pattern} with '{subset}' in its name; it has {names}")
    if (root / "annotations").is_dir():
        entries = ", ".join(sorted(f.name for f in (root / "annotations").iterdir())[:5])
        raise UsageError(f"{root / 'annotations'} has no instances*.json (it has {entries or 'nothing'})")
    raise UsageError(f"{root} is not a COCO folder; expected: {EXPECTED}")


def subset_of(file: Path, root: Path) -> str:
    """What distinguishes a file from the others of its layout: Roboflow's folder, or the rest of its name."""
    return file.stem.partition("_")[2] if file.parent in (root, root / "annotations") else file.parent.name


def caption_files(root: Path, subset: str) -> list[Path]:
    """The files with captions whose path contains `subset`."""
    return [file for pattern in CAPTIONS for file in _of(sorted(root.glob(pattern)), root, subset)]


def _of(files: Sequence[Path], root: Path, subset: str) -> list[Path]:
    return [file for file in files if subset in file.relative_to(root).as_posix()]


def picture_folders(root: Path, files: Sequence[Path]) -> list[str]:
    """Where pictures may be below the root, likeliest first: beside the file, in images/ and its folders, in data/ and
    its folders, in train2017/, ..., in the root."""
    beside = [file.parent for file in files if file.parent not in (root, root / "annotations")]
    below = sorted(f for f in root.iterdir() if f.is_dir() and f.name != "annotations" and not f.name.startswith("."))
    preferred = [folder for name in ("images", "data") for folder in below if folder.name == name]
    nested = [[outer, *sorted(folder for folder in outer.iterdir() if folder.is_dir())] for outer in preferred]
    remaining = [folder for folder in below if folder not in preferred]
    ordered = dict.fromkeys([*beside, *(folder for folders in nested for folder in folders), *remaining])
    return [folder.relative_to(root).as_posix() for folder in ordered] + ["."]


class PictureFinder:
    """Finds pictures by their names in annotation files: a relative path, a path on another machine, or a URL."""

    def __init__(self, root: Path, folders: Sequence[str]):
        self._root, self._folders, self._listed = root, folders, FolderListing()

    def find(self, name: str) -> tuple[str, int] | None:
        """The pointer to the file with this name, or with the longest end of it that exists, and how many leading
        folders were dropped; None where no file matches."""
        parts = ends_of(name)
        if any(len(part.encode(errors="replace")) > 255 for part in parts):
            return None
        for dropped in range(len(parts)):
            for tail in _spellings("/".join(parts[dropped:])):
                for folder in self._folders:
                    if self._listed.has(self._root / folder / tail):
                        return (tail if folder == "." else f"{folder}/{tail}"), dropped
        return None

    def would_be(self, name: str) -> str:
        """The pointer that a file with this name would have."""
        folder = self._folders[0]
        return name if folder == "." else f"{folder}/{name}"


def _spellings(name: str) -> list[str]:
    """A name as it stands, URL-unquoted, and in both Unicode normal forms."""
    unquoted = unquote(name)
    if unquoted.count("/") != name.count("/") or "\0" in unquoted or ".." in unquoted.split("/"):
        unquoted = name  # another path
    return list(dict.fromkeys((name, unquoted, *(normalize(form, unquoted) for form in ("NFC", "NFD")))))


def ends_of(name: str) -> list[str]:
    """A name's folders and file, without the beginning that belongs to another machine.

    >>> ends_of(r"C:\\data\\val\\1.jpg"), ends_of("http://host/val2017/1.jpg"), ends_of("/data/local-files/?d=a/1.jpg")
    (['data', 'val', '1.jpg'], ['val2017', '1.jpg'], ['a', '1.jpg'])
    """
    if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+://", name):
        name = unquote(urlsplit(name).path)
    name = name.rpartition("?d=")[2].replace("\\", "/")  # Label Studio's local files
    parts = [part for part in re.sub(r"^[a-zA-Z]:", "", name).split("/") if part not in ("", ".")]
    parent_steps = [position for position, part in enumerate(parts) if part == ".."]
    return parts[parent_steps[-1] + 1 :] if parent_steps else parts
