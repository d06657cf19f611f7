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
    """The content of the annotation files.

    index: pycocotools' index of the instances. captions, pointers: by image id. categories: all of them, also where
    the index is narrowed. digest: sha256 of the files' bytes and of what was left out."""

    index: Any
    captions: Mapping[Id, list[str]]
    pointers: Mapping[Id, str]
    categories: Sequence[Mapping[str, Any]]
    digest: str

    def narrowed(self, content: Mapping[str, Any]) -> CocoFiles:
        """The same with only these rows."""
        kept_ids = {image["id"] for image in content["images"]}
        captions = {picture_id: texts for picture_id, texts in self.captions.items() if picture_id in kept_ids}
        return replace(self, index=index_of(content), captions=captions)


def read(root: Path, subset: str) -> CocoFiles:
    """Read the files with instances, and with captions if there are any, whose path contains `subset`.

    Raises:
        UsageError: not a COCO folder, or no pictures in the files.
        IntegrityError: a file is truncated or is not a COCO file.
        BadMedia: the names of all pictures lead out of the folder.
    """
    annotation_files = instance_files(root, subset)
    digest = hashlib.sha256()
    content: dict[str, list[Any]] = {"images": [], "annotations": [], "categories": [], "licenses": []}
    for file in annotation_files:
        parsed = _parsed(file, digest, ("images", "annotations", "categories"))
        if not isinstance(parsed.get("licenses"), list):  # shown, and used for nothing else
            parsed["licenses"] = []
        for key, rows in content.items():
            rows += [row for row in parsed.get(key, []) if key in ("images", "annotations") or row not in rows]
    normalise_rows(root, content, [subset_of(file, root) for file in annotation_files])
    pointers = picture_pointers(root, content["images"], PictureFinder(root, picture_folders(root, annotation_files)))
    require_pixels(root, [image for image in content["images"] if image["id"] in pointers], content["annotations"])
    listed = {image["id"] for image in content["images"]}
    unlisted = [
        f"{row['id']} of picture {row['image_id']}" for row in content["annotations"] if row["image_id"] not in listed
    ]
    warn_left_out(f"{root}: annotations of pictures that are not listed", unlisted, len(content["annotations"]))
    captions: dict[Id, list[str]] = {image["id"]: [] for image in content["images"]}
    for file in caption_files(root, subset):
        _read_captions(file, _parsed(file, digest, ("annotations",))["annotations"], captions)
    if without_file := [image for image in content["images"] if image["id"] not in pointers]:
        digest.update(json.dumps([image["id"] for image in without_file]).encode())
        content["images"] = [image for image in content["images"] if image["id"] in pointers]
    files = CocoFiles(None, captions, pointers, content["categories"], digest.hexdigest())
    return files.narrowed(content)


def _read_captions(file: Path, rows: Sequence[Mapping[str, Any]], captions: Mapping[Id, list[str]]) -> None:
    """Add a file's captions to those of its pictures; a row has one, or a list of them."""
    unlisted, empty = [], []
    for row_number, row in enumerate(rows):
        picture_id, caption = normalised_id(row.get("image_id")), row.get("caption")
        stripped = [
            text.strip() for text in (caption if isinstance(caption, list) else [caption]) if isinstance(text, str)
        ]
        texts = [text for text in stripped if text]
        if not texts:
            empty.append(f"row {row_number}")
        elif picture_id is None or picture_id not in captions:
            unlisted.append(f"row {row_number} of picture {row.get('image_id')!r:.40}")
        else:
            captions[picture_id] += texts
    warn_left_out(f"{file}: captions of pictures that are not listed", unlisted, len(rows))
    warn_left_out(f"{file}: empty captions", empty, len(rows))


def _parsed(file: Path, digest: Any, keys: Sequence[str]) -> dict[str, Any]:
    """The content of one annotation file; its bytes are added to the digest."""
    try:
        data = file.read_bytes()
        text = data.decode("utf-8-sig")
        content = json.loads(text)
        if "\\ud" in text or "\\uD" in text:  # half a character, which can be neither hashed nor stored
            json.dumps(content, ensure_ascii=False).encode()
    except (OSError, ValueError, RecursionError) as error:
        raise IntegrityError(f"{file} cannot be read: {error}; download it again") from error
    digest.update(hashlib.sha256(data).digest())
    if not isinstance(content, dict) or any(not isinstance(content.get(key), list) for key in keys):
        raise IntegrityError(f"{file} is not a COCO file: it lacks a list of {' or '.join(keys)}")
    if not all(isinstance(row, dict) for key in keys for row in content[key]):
        raise IntegrityError(f"{file} is not a COCO file: a row is not an object")
    return content


def index_of(content: Mapping[str, Any]) -> Any:
    """pycocotools' index of the annotations of the listed pictures; what it prints is kept off stdout."""
    from pycocotools.coco import COCO

    image_ids = {image["id"] for image in content["images"]}
    index = COCO()
    index.dataset = {**content, "annotations": [a for a in content["annotations"] if a["image_id"] in image_ids]}
    with redirect_stdout(io.StringIO()):
        index.createIndex()
    return index
