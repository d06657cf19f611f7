"""The rows of COCO's annotation files: ids in one form, missing values filled in, everything left out reported."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from atlas.errors import IntegrityError, UsageError
from ingest.data.examples import BadMedia
from ingest.data.media import size_of
from ingest.datasets._coco_layout import PictureFinder
from ingest.datasets._files import EVERY, require_inside, warn_case_variants, warn_left_out

LARGEST = 100_000
"""Pixels of a picture's side: a larger one is a mistake, and its mask would take all memory."""

EXACT = 2**53
"""Above this, floats cannot represent every whole number."""

IDS = {"images": ("id",), "annotations": ("image_id", "category_id"), "categories": ("id",)}
Id = int | str


def normalised_id(value: Any) -> Id | None:
    """An id in the form in which files are compared: 7, 7.0, "7" and "000007" are all the number 7, other texts stay.

    None where it is neither a number nor a text, or is a float that may stand for several whole numbers."""
    if isinstance(value, float) and value.is_integer():
        return int(value) if abs(value) <= EXACT else None
    if isinstance(value, str):
        text = value.strip()
        return int(text.partition(".")[0]) if re.fullmatch(r"[+-]?[0-9]{1,40}(\.0*)?", text, re.ASCII) else text or None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def normalise_rows(root: Path, content: Mapping[str, list[Any]], subsets: Sequence[str]) -> None:
    """Bring ids and names into one form, number annotations without an id, and refuse unusable rows.

    subsets: the names that tell the files apart.

    Raises:
        IntegrityError: a row without an id or a name, a repeated id or name, an unknown category.
        UsageError: there are no pictures or no categories.
    """
    for table, fields in IDS.items():
        for row in content[table]:
            for field in fields:
                value = normalised_id(row.get(field))
                if value is None:
                    raise IntegrityError(_bad(root, table, field, row))
                row[field] = value
    for row in content["images"]:
        name = row.get("file_name") or row.get("coco_url") or row.get("file_name")  # LVIS has the URL alone
        if not isinstance(name, str):
            raise IntegrityError(_bad(root, "images", "file_name", row))
        row["file_name"] = name
    for row in content["categories"]:
        if not isinstance(row.get("name"), str) or not row["name"].strip(" ,;"):
            raise IntegrityError(_bad(root, "categories", "name", row))
        row["name"] = "; ".join(part for part in map(_spaced, row["name"].split(",")) if part)  # --concepts a,b are two
        if row["name"] == EVERY:
            raise IntegrityError(f"{root}: the category '{EVERY}' stands for all categories; give it another name")
    for table, noun in (("images", "pictures"), ("categories", "categories")):
        if not content[table]:
            raise UsageError(f"{root} has no {noun} in its annotation files; there is nothing to ingest")
    content["categories"][:] = _used(content)
    for table, name in (("images", "id"), ("images", "file_name"), ("categories", "id"), ("categories", "name")):
        [(repeated, count)] = Counter(row[name] for row in content[table]).most_common(1)
        if count > 1:
            hint = f"; read one file with [[options=subset={subsets[-1]}]]" if len(subsets) > 1 else ""
            raise IntegrityError(f"{root}: two {table} have the {name} {repeated!r}{hint}")
    warn_case_variants([category["name"] for category in content["categories"]])
    category_ids = {category["id"] for category in content["categories"]}
    for position, row in enumerate(content["annotations"], 1):
        annotation_id = normalised_id(row.get("id"))
        row["id"] = f"number {position}" if annotation_id is None else annotation_id
        if row["category_id"] not in category_ids:
            raise IntegrityError(
                f"{root}: annotation {row['id']} has category {row['category_id']}, which is not listed"
            )


def _spaced(text: str) -> str:
    return " ".join(text.split())


def _bad(root: Path, table: str, field: str, row: Mapping[str, Any]) -> str:
    return f"{root}: a row of {table} has no valid {field}: {json.dumps(row)[:120]}"


def _used(content: Mapping[str, list[Any]]) -> list[Any]:
    """The categories without unused ones that share a name with another (Roboflow's first category is such a one)."""
    used_ids = {row["category_id"] for row in content["annotations"]}
    first_by_name: dict[str, Any] = {}
    for row in sorted(content["categories"], key=lambda row: row["id"] not in used_ids):
        first_by_name.setdefault(row["name"], row)
    return [row for row in content["categories"] if row["id"] in used_ids or first_by_name[row["name"]] is row]


def picture_pointers(root: Path, images: Sequence[dict[str, Any]], finder: PictureFinder) -> dict[Id, str]:
    """The pointer of each picture by its id; pictures without a pointer or a size are left out with a warning.

    Raises:
        BadMedia: every picture would be left out.
        IntegrityError: an impossible size.
    """
    matches = {row["id"]: finder.find(row["file_name"]) for row in images}
    exact_counts = Counter(match[0] for match in matches.values() if match is not None and not match[1])
    partial_counts = Counter(match[0] for match in matches.values() if match is not None and match[1])
    pointers: dict[Id, str] = {}
    left_out: list[str] = []
    for row in images:
        match, name = matches[row["id"]], row["file_name"]
        try:
            if match is None:
                require_inside(name.replace("\\", "/"))
                pointer = finder.would_be(name.replace("\\", "/"))
            elif exact_counts[match[0]] + (partial_counts[match[0]] if match[1] else 0) > 1:
                raise BadMedia(f"'{name}' matches {match[0]}, and so does another picture's name")
            else:
                pointer = match[0]
            _measure(root, row, pointer)
        except BadMedia as error:
            if len(left_out) + 1 == len(images):
                raise
            left_out.append(str(error))
            continue
        pointers[row["id"]] = pointer
    warn_left_out(f"{root}: pictures", left_out, len(images))
    return pointers


def _measure(root: Path, row: dict[str, Any], pointer: str) -> None:
    """Make the picture's width and height whole numbers, read from the picture itself where the file lacks them."""
    size = [normalised_id(row.get(side) or None) for side in ("width", "height")]
    if None in size:
        size = list(size_of(root / pointer))
    if not all(isinstance(side, int) and 1 <= side <= LARGEST for side in size):
        raise IntegrityError(f"{root}: image {row['id']} is {size[0]} x {size[1]} pixels")
    row["width"], row["height"] = size
