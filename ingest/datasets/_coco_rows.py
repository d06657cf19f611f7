"""The rows of COCO's annotation files: ids in one form, what is missing found or told, nothing left out unsaid."""

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
"""Above it floats leave whole numbers out."""

IDS = {"images": ("id",), "annotations": ("image_id", "category_id"), "categories": ("id",)}
Id = int | str


def normalised_id(value: Any) -> Id | None:
    """An id in the one form that all files are compared in: 7, 7.0, "7" and "000007" are the number 7, other texts
    themselves; None where it is neither a number nor a text, or a float that may stand for several whole numbers."""
    if isinstance(value, float) and value.is_integer():
        return int(value) if abs(value) <= EXACT else None
    if isinstance(value, str):
        text = value.strip()
        return int(text.partition(".")[0]) if re.fullmatch(r"[+-]?[0-9]{1,40}(\.0*)?", text, re.ASCII) else text or None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def normalise_rows(root: Path, whole: Mapping[str, list[Any]], subsets: Sequence[str]) -> None:
    """Bring ids and names into one form, number annotations without an id; refuse rows that nothing can be made of.

    subsets: what tells the files apart.

    Raises:
        IntegrityError: a row without an id or a name, an id or a name that repeats, a category that is none.
        UsageError: there are no pictures or no categories.
    """
    for key, fields in IDS.items():
        for row in whole[key]:
            for field in fields:
                number = normalised_id(row.get(field))
                if number is None:
                    raise IntegrityError(_bad(root, key, field, row))
                row[field] = number
    for row in whole["images"]:
        name = row.get("file_name") or row.get("coco_url") or row.get("file_name")  # LVIS has the URL alone
        if not isinstance(name, str):
            raise IntegrityError(_bad(root, "images", "file_name", row))
        row["file_name"] = name
    for row in whole["categories"]:
        if not isinstance(row.get("name"), str) or not row["name"].strip(" ,;"):
            raise IntegrityError(_bad(root, "categories", "name", row))
        row["name"] = "; ".join(part for part in map(_spaced, row["name"].split(",")) if part)  # --concepts a,b are two
        if row["name"] == EVERY:
            raise IntegrityError(f"{root}: the category '{EVERY}' stands for all categories; give it another name")
    for key, what in (("images", "pictures"), ("categories", "categories")):
        if not whole[key]:
            raise UsageError(f"{root} has no {what} in its annotation files; there is nothing to ingest")
    whole["categories"][:] = _used(whole)
    for key, name in (("images", "id"), ("images", "file_name"), ("categories", "id"), ("categories", "name")):
        [(twice, times)] = Counter(row[name] for row in whole[key]).most_common(1)
        if times > 1:
            hint = f"; give one file with subset={subsets[-1]}" if len(subsets) > 1 else ""
            raise IntegrityError(f"{root}: two {key} have the {name} {twice!r}{hint}")
    warn_case_variants([category["name"] for category in whole["categories"]])
    known = {category["id"] for category in whole["categories"]}
    for number, row in enumerate(whole["annotations"], 1):
        own = normalised_id(row.get("id"))
        row["id"] = f"number {number}" if own is None else own
        if row["category_id"] not in known:
            raise IntegrityError(f"{root}: annotation {row['id']} has category {row['category_id']}, which is none")


def _spaced(text: str) -> str:
    return " ".join(text.split())


def _bad(root: Path, key: str, field: str, row: Mapping[str, Any]) -> str:
    return f"{root}: a row of {key} has no good {field}: {json.dumps(row)[:120]}"


def _used(whole: Mapping[str, list[Any]]) -> list[Any]:
    """The categories without those that nothing is annotated with and that have another's name (Roboflow's first)."""
    used = {row["category_id"] for row in whole["annotations"]}
    first: dict[str, Any] = {}
    for row in sorted(whole["categories"], key=lambda row: row["id"] not in used):
        first.setdefault(row["name"], row)
    return [row for row in whole["categories"] if row["id"] in used or first[row["name"]] is row]


def picture_pointers(root: Path, images: Sequence[dict[str, Any]], places: PictureFinder) -> dict[Id, str]:
    """The pointer of each picture by its id; those that have none or no size are left out, and it is said.

    Raises:
        BadMedia: not one is left, and the first one's name leads out of the folder.
        UsageError: not one is left.
        IntegrityError: a size that no picture has.
    """
    found = {row["id"]: places.find(row["file_name"]) for row in images}
    exact = Counter(at[0] for at in found.values() if at is not None and not at[1])
    by_end = Counter(at[0] for at in found.values() if at is not None and at[1])
    pointers: dict[Id, str] = {}
    left: list[str] = []
    for row in images:
        at, name = found[row["id"]], row["file_name"]
        try:
            if at is None:
                require_inside(name.replace("\\", "/"))
                pointer = places.would_be(name.replace("\\", "/"))
            elif exact[at[0]] + (by_end[at[0]] if at[1] else 0) > 1:
                raise BadMedia(f"'{name}' would be {at[0]}, and so would another picture's name")
            else:
                pointer = at[0]
            _measure(root, row, pointer)
        except BadMedia as error:
            if len(left) + 1 == len(images):
                raise
            left.append(str(error))
            continue
        pointers[row["id"]] = pointer
    warn_left_out(f"{root}: pictures", left, len(images))
    return pointers


def _measure(root: Path, row: dict[str, Any], pointer: str) -> None:
    """Make the picture's width and height whole numbers; from the picture where the file has none."""
    given = [normalised_id(row.get(side) or None) for side in ("width", "height")]
    if None in given:
        given = list(size_of(root / pointer))
    if not all(isinstance(side, int) and 1 <= side <= LARGEST for side in given):
        raise IntegrityError(f"{root}: image {row['id']} is {given[0]} x {given[1]} pixels")
    row["width"], row["height"] = given
