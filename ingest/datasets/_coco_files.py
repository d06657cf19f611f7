"""The files of a COCO folder: annotations read and checked, pictures found, nothing outside the folder touched."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atlas.errors import IntegrityError, UsageError
from ingest.datasets._files import require_inside


@dataclass(frozen=True, slots=True)
class Files:
    """What the annotation files say: pycocotools' index of the instances, captions by image id, sha256 of the bytes."""

    index: Any
    captions: dict[int, list[str]]
    digest: str


LARGEST = 100_000
"""Pixels of a picture's side: a larger one is a mistake, and its mask would take all memory."""

_NEEDED: dict[str, dict[str, type]] = {
    "images": {"id": int, "file_name": str, "height": int, "width": int},
    "annotations": {"id": int, "image_id": int, "category_id": int},
    "categories": {"id": int, "name": str},
}


def read(root: Path, subset: str) -> Files:
    """Read `annotations/instances*.json` and `captions*.json`, those whose name contains `subset`.

    Raises:
        UsageError: not a COCO folder, or no pictures in the files.
        IntegrityError: a file is cut or is not what COCO's are.
    """
    folder = root / "annotations"
    if not folder.is_dir():
        raise UsageError(f"{root} is not a COCO folder: it has no annotations/ with instances*.json")
    chosen = {kind: _chosen(folder, kind, subset) for kind in ("instances", "captions")}
    if not chosen["instances"]:
        wanted = f"instances*{subset}*.json"
        raise UsageError(f"{folder} has no {wanted}; it has {sorted(f.name for f in folder.glob('*.json'))}")
    digest = hashlib.sha256()
    whole: dict[str, list[Any]] = {"images": [], "annotations": [], "categories": [], "licenses": []}
    for file in chosen["instances"]:
        part = _parsed(file, digest, ("images", "annotations", "categories"))
        if not isinstance(part.get("licenses"), list):  # they are told, but nothing hangs on them
            part["licenses"] = []
        for key, rows in whole.items():
            rows += [row for row in part.get(key, []) if key in ("images", "annotations") or row not in rows]
    _require(root, whole)
    captions: dict[int, list[str]] = {image["id"]: [] for image in whole["images"]}
    for file in chosen["captions"]:
        for row in _parsed(file, digest, ("annotations",))["annotations"]:
            text = str(row.get("caption", "")).strip()
            number = row.get("image_id")
            if text and isinstance(number, int) and number in captions:
                captions[number].append(text)
    return Files(index_of(whole), captions, digest.hexdigest())


def _chosen(folder: Path, kind: str, subset: str) -> list[Path]:
    return sorted(file for file in folder.glob(f"{kind}*.json") if subset in file.name)


def _parsed(file: Path, digest: Any, keys: Sequence[str]) -> dict[str, Any]:
    """One annotation file; its bytes are added to the digest."""
    try:
        data = file.read_bytes()
        text = data.decode("utf-8-sig")
        found = json.loads(text)
        if "\\ud" in text or "\\uD" in text:  # half a character, which can be neither hashed nor stored
            json.dumps(found, ensure_ascii=False).encode()
    except (OSError, ValueError, RecursionError) as error:
        raise IntegrityError(f"{file} cannot be read: {error}; download it again") from error
    digest.update(hashlib.sha256(data).digest())
    if not isinstance(found, dict) or any(not isinstance(found.get(key), list) for key in keys):
        raise IntegrityError(f"{file} is not a COCO file: it lacks a list of {' or '.join(keys)}")
    if not all(isinstance(row, dict) for key in keys for row in found[key]):
        raise IntegrityError(f"{file} is not a COCO file: a row is not an object")
    return found


def _require(root: Path, whole: dict[str, list[Any]]) -> None:
    """Refuse rows that lack what is needed, names that repeat, and paths that lead elsewhere."""
    for key, needed in _NEEDED.items():
        for row in whole[key]:
            wrong = [name for name, kind in needed.items() if not isinstance(row.get(name), kind)]
            if wrong:
                raise IntegrityError(f"{root}: a row of {key} has no good {wrong[0]}: {json.dumps(row)[:120]}")
    for key, what in (("images", "pictures"), ("categories", "categories")):
        if not whole[key]:
            raise UsageError(f"{root} has no {what} in its annotation files; there is nothing to ingest")
    for key, name in (("images", "id"), ("images", "file_name"), ("categories", "id"), ("categories", "name")):
        [(twice, times)] = Counter(row[name] for row in whole[key]).most_common(1) or [(None, 0)]
        if times > 1:
            raise IntegrityError(f"{root}: two {key} have the {name} {twice!r}; give one file with subset=val2017")
    for image in whole["images"]:
        if not (1 <= image["height"] <= LARGEST and 1 <= image["width"] <= LARGEST):
            raise IntegrityError(f"{root}: image {image['id']} is {image['width']} x {image['height']} pixels")
        require_inside(image["file_name"])
    known = {category["id"] for category in whole["categories"]}
    strange = next((a for a in whole["annotations"] if a["category_id"] not in known), None)
    if strange is not None:
        raise IntegrityError(f"{root}: annotation {strange['id']} has category {strange['category_id']}, which is none")


def index_of(whole: dict[str, list[Any]]) -> Any:
    """pycocotools' index; what it prints is not wanted on stdout. Annotations of unlisted pictures are left out."""
    from pycocotools.coco import COCO

    listed = {image["id"] for image in whole["images"]}
    index = COCO()
    index.dataset = {**whole, "annotations": [a for a in whole["annotations"] if a["image_id"] in listed]}
    with redirect_stdout(io.StringIO()):
        index.createIndex()
    return index


def picture_folders(root: Path) -> list[str]:
    """Where pictures may lie below the root, likeliest first: images/ and its folders, train2017/..., the root."""
    below = sorted(folder for folder in root.iterdir() if folder.is_dir() and folder.name != "annotations")
    images = [folder for folder in below if folder.name == "images"]
    nested = sorted(folder for top in images for folder in top.iterdir() if folder.is_dir())
    others = [folder for folder in below if folder.name != "images"]
    return [folder.relative_to(root).as_posix() for folder in (*images, *nested, *others)] + ["."]
