"""The files of a COCO folder: annotations read and checked, pictures found, nothing outside the folder touched."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from atlas.errors import IntegrityError
from ingest.datasets._coco_layout import PictureFinder, caption_files, instance_files, picture_folders, subset_of
from ingest.datasets._coco_masks import require_pixels
from ingest.datasets._coco_rows import Id, normalise_rows, normalised_id, picture_pointers
from ingest.datasets._files import warn_left_out


@dataclass(frozen=True, slots=True)
class CocoFiles:
    """What the annotation files say: pycocotools' index of the instances, captions and pointers to the pictures by
    image id, every category there is (the index may be narrowed), sha256 of the bytes and of what was left out."""

    index: Any
    captions: Mapping[Id, list[str]]
    pointers: Mapping[Id, str]
    categories: Sequence[Mapping[str, Any]]
    digest: str

    def narrowed(self, whole: Mapping[str, Any]) -> CocoFiles:
        """With these rows alone."""
        ids = {image["id"] for image in whole["images"]}
        captions = {number: texts for number, texts in self.captions.items() if number in ids}
        return replace(self, index=index_of(whole), captions=captions)


def read(root: Path, subset: str) -> CocoFiles:
    """Read the files with instances, and with captions if there are any, whose path has `subset` in it.

    Raises:
        UsageError: not a COCO folder, or no pictures in the files.
        IntegrityError: a file is cut or is not what COCO's are.
        BadMedia: the names of all pictures lead out of the folder.
    """
    chosen = instance_files(root, subset)
    digest = hashlib.sha256()
    whole: dict[str, list[Any]] = {"images": [], "annotations": [], "categories": [], "licenses": []}
    for file in chosen:
        part = _parsed(file, digest, ("images", "annotations", "categories"))
        if not isinstance(part.get("licenses"), list):  # they are told, but nothing hangs on them
            part["licenses"] = []
        for key, rows in whole.items():
            rows += [row for row in part.get(key, []) if key in ("images", "annotations") or row not in rows]
    normalise_rows(root, whole, [subset_of(file, root) for file in chosen])
    pointers = picture_pointers(root, whole["images"], PictureFinder(root, picture_folders(root, chosen)))
    require_pixels(root, [image for image in whole["images"] if image["id"] in pointers], whole["annotations"])
    listed = {image["id"] for image in whole["images"]}
    strange = [
        f"{row['id']} of picture {row['image_id']}" for row in whole["annotations"] if row["image_id"] not in listed
    ]
    warn_left_out(f"{root}: annotations of pictures that are not listed", strange, len(whole["annotations"]))
    captions: dict[Id, list[str]] = {image["id"]: [] for image in whole["images"]}
    for file in caption_files(root, subset):
        _read_captions(file, _parsed(file, digest, ("annotations",))["annotations"], captions)
    if lost := [image for image in whole["images"] if image["id"] not in pointers]:
        digest.update(json.dumps([image["id"] for image in lost]).encode())
        whole["images"] = [image for image in whole["images"] if image["id"] in pointers]
    files = CocoFiles(None, captions, pointers, whole["categories"], digest.hexdigest())
    return files.narrowed(whole)


def _read_captions(file: Path, rows: Sequence[Mapping[str, Any]], captions: Mapping[Id, list[str]]) -> None:
    """Add a file's captions to those of its pictures: one, or a list of them, a row."""
    lost, empty = [], []
    for at, row in enumerate(rows):
        number, given = normalised_id(row.get("image_id")), row.get("caption")
        said = [text.strip() for text in (given if isinstance(given, list) else [given]) if isinstance(text, str)]
        texts = [text for text in said if text]
        if not texts:
            empty.append(f"row {at}")
        elif number is None or number not in captions:
            lost.append(f"row {at} of picture {row.get('image_id')!r:.40}")
        else:
            captions[number] += texts
    warn_left_out(f"{file}: captions of pictures that are not listed", lost, len(rows))
    warn_left_out(f"{file}: captions without a word", empty, len(rows))


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


def index_of(whole: Mapping[str, Any]) -> Any:
    """pycocotools' index; what it prints is not wanted on stdout. Only annotations of the listed pictures are in it."""
    from pycocotools.coco import COCO

    listed = {image["id"] for image in whole["images"]}
    index = COCO()
    index.dataset = {**whole, "annotations": [a for a in whole["annotations"] if a["image_id"] in listed]}
    with redirect_stdout(io.StringIO()):
        index.createIndex()
    return index
