"""Reading a folder that someone else made: annotations checked, media found, nothing outside the folder touched."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path, PurePosixPath
from typing import Any

from atlas.errors import AtlasWarning, UsageError, unknown
from atlas.store.atomic import expanded, kept_below
from ingest.data.examples import FIND, HELD_OUT, BadMedia

SHOWN = 3
"""How many of what is left out are named."""

EVERY = "*"
"""The name of what the atlas keeps over all concepts of a dataset; no concept can have it."""


def sort_key(seed: int, purpose: str, key: object) -> str:
    """Hex digits to sort by: an order of the keys that the seed draws, the same on every machine."""
    return hashlib.sha256(f"{seed}/{purpose}/{key}".encode()).hexdigest()


def split_of(key: object) -> str:
    """ "held_out" for about one picture (speaker, ...) in five, by a hash of its id: the same in every subset."""
    return HELD_OUT if int(sort_key(0, "split", key)[:8], 16) % 5 == 0 else FIND


def check_names(kind: str, asked: Sequence[str], known: Iterable[str]) -> None:
    """Raises UsageError for the first name that is not known, with the nearest that is."""
    names = list(known)
    for name in asked:
        if name not in names:
            raise unknown(kind, name, names, "atlas datasets")


def require_inside(name: str) -> None:
    """Refuse a medium's name that is absolute or climbs out of its folder.

    Raises:
        BadMedia: with the name.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    if any(len(part.encode(errors="replace")) > 255 for part in path.parts):
        raise BadMedia(f"the name '{name[:80]}...' is too long for a file")
    if not path.name or path.is_absolute() or ".." in path.parts or ":" in path.parts[0] or "\0" in name:
        raise BadMedia(f"the name '{name}' leads out of the dataset's folder")


def resolve_media(root: Path, media: str) -> Path:
    """The file behind a pointer, links followed.

    Raises:
        BadMedia: it lies outside the root, and outside the Hub's cache that the root is in.
    """
    require_inside(media)
    try:
        path = (root / media).resolve(strict=True)
    except FileNotFoundError:  # told by who opens it
        path = (root / media).resolve()
    except (OSError, RuntimeError) as error:  # links in a circle, a folder that may not be entered
        raise BadMedia(f"{root / media} cannot be followed: {error}") from error
    if not any(path.is_relative_to(place) for place in kept_below(root)):
        raise BadMedia(f"{root / media} is a link out of the dataset's folder; give the folder it leads to")
    return path


def dataset_folder(path: str | None, name: str) -> Path:
    """The dataset's folder.

    Raises:
        UsageError: none was given, or there is none.
    """
    if path is None:
        raise UsageError(f"{name} needs a folder; use --dataset {name}:PATH")
    root = expanded(path)
    if not root.is_dir():
        raise UsageError(f"there is no folder {root}; use --dataset {name}:PATH")
    return root


def find_one_file(root: Path, patterns: Sequence[str], layout: str) -> Path:
    """The one file that a pattern finds, the first pattern that finds any.

    Raises:
        UsageError: no pattern finds one, or one finds several. layout: what the folder should look like.
    """
    for pattern in patterns:
        found = sorted(file for file in root.glob(pattern) if file.is_file())
        if len(found) > 1:
            raise UsageError(f"{root} has {' and '.join(f.name for f in found[:2])}; keep one of them")
        if found:
            return found[0]
    raise UsageError(f"{root} has no {' or '.join(patterns)}; expected is {layout}")


def read_text(file: Path) -> str:
    """A file's words, in UTF-8.

    Raises:
        UsageError: missing or not UTF-8.
    """
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{file} is not UTF-8 (byte {error.start:,}); save it in UTF-8") from error
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error}") from error


def read_json(file: Path) -> Any:
    """The content of a JSON file.

    Raises:
        UsageError: missing, cut or not JSON.
    """
    try:
        return json.loads(read_text(file))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{file} is not JSON, or cut: {error}; download it again") from error


def read_csv(file: Path) -> list[tuple[str, Mapping[str, str | None]]]:
    """The rows of a CSV file, each with its file and line, for messages; columns by their names in small letters.

    Cells are separated as the first line's are: by commas, semicolons, tabs or bars.

    Raises:
        UsageError: no table, no rows, two columns of one name, or a row with more cells than columns.
    """
    text = read_text(file)
    first = text.partition("\n")[0]
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t|", key=first.count), strict=True)
        cells = [(f"{file}: line {reader.line_num}", row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise UsageError(f"{file} is not a table: {error}; download it again") from error
    if len(cells) < 2:
        raise UsageError(f"{file} has no rows; there is nothing to ingest")
    names = [cell.strip().lower() for cell in cells[0][1]]
    for name in names:
        if name and names.count(name) > 1:
            raise UsageError(f"{file} has two columns {name}; keep one of them")
    for where, row in cells[1:]:
        if len(row) > len(names):
            raise UsageError(f"{where} has {len(row)} cells, and there are {len(names)} columns; quote what has commas")
    return [(where, dict(zip_longest(names, row))) for where, row in cells[1:]]


def read_jsonl(file: Path) -> list[tuple[str, Mapping[str, Any]]]:
    """The rows of a file with a JSON object a line, each with its file and line, for messages.

    Raises:
        UsageError: missing, a line that is not an object, or no lines.
    """
    found: list[tuple[str, Mapping[str, Any]]] = []
    for number, text in enumerate(read_text(file).split("\n"), 1):
        if not text.strip():
            continue
        where = f"{file}: line {number}"
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{where} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise UsageError(f"{where} is not an object: {text[:80]}")
        found.append((where, row))
    if not found:
        raise UsageError(f"{file} has no rows; there is nothing to ingest")
    return found


def read_json_rows(file: Path, key: str | None) -> list[Mapping[str, Any]]:
    """The rows of a JSON file: the list itself, or the list under `key`.

    Raises:
        UsageError: not JSON, no such list, an empty one, or a row that is not an object.
    """
    whole = read_json(file)
    found = whole if key is None else whole.get(key) if isinstance(whole, dict) else None
    if not isinstance(found, list):
        raise UsageError(f"{file} is not what it should be: it has no list{f' of {key}' if key else ''}")
    for number, row in enumerate(found):
        if not isinstance(row, dict):
            raise UsageError(f"{file}: row {number} is not an object: {json.dumps(row)[:80]}")
    if not found:
        raise UsageError(f"{file} has no rows; there is nothing to ingest")
    return found


def warn_left_out(what: str, left: Sequence[str], of: int, done: str = "left out") -> None:
    """Warn that some of many rows are left out (or what is done with them), with the first of them."""
    if left:
        more = f", and {len(left) - SHOWN} more" if len(left) > SHOWN else ""
        warnings.warn(f"{what}: {len(left):,} of {of:,} {done}: {'; '.join(left[:SHOWN])}{more}", AtlasWarning, 4)


def warn_case_variants(names: Sequence[str]) -> None:
    """Warn of concepts whose names differ in capitals alone."""
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(name.casefold(), []).append(name)
    several = [" and ".join(map(repr, some)) for some in alike.values() if len(some) > 1]
    if several:
        message = "concepts that differ in capitals alone are scored apart; write them alike to have one"
        warnings.warn(f"{message}: {'; '.join(several[:SHOWN])}", AtlasWarning, 4)


def require_unique(rows: Sequence[Mapping[str, Any]], key: str, file: Path) -> None:
    """Raises UsageError where two rows have the same value of `key`, or one has none."""
    seen: set[str] = set()
    for number, row in enumerate(rows):
        value = identifier(row.get(key), f"{file}: the {key} of row {number}")
        if value in seen:
            raise UsageError(f"{file}: row {number} has the {key} {value} a second time")
        seen.add(value)


def stripped_text(value: object, where: str) -> str:
    """A text with its outer white space gone.

    where: file, row and field, for the message.

    Raises:
        UsageError: no text, an empty one, or one that no file can hold (half a character).
    """
    if not isinstance(value, str) or not value.strip():
        raise UsageError(f"{where} is not text: {json.dumps(value, default=str)[:80]}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{where} has half a character: {value[:80]!a}") from None
    return value.strip()


def one_line(value: object, where: str) -> str:
    """The same in one line, with single spaces."""
    return " ".join(stripped_text(value, where).split())


def identifier(value: object, where: str) -> str:
    """A number or a text that names something.

    Raises:
        UsageError: neither.
    """
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else stripped_text(value, where)


def media_pointers(root: Path, folders: Sequence[str], names: Iterable[str]) -> list[str]:
    """Each name's pointer: below the first folder that has it, else below the first there could be.

    Raises:
        BadMedia: a name leads out of the folder.
        UsageError: not one of them is there.
    """
    listed, found, pointers, first = FolderListing(), False, [], ""
    for given in names:
        require_inside(given)
        name = PurePosixPath(given.replace("\\", "/")).as_posix()  # "./a.png" is a.png, and in its split
        first = first or name
        place = next((p for p in folders if listed.has(root / p / name)), None)
        found = found or place is not None
        place = folders[0] if place is None else place
        pointers.append(name if place == "." else f"{place}/{name}")
    if pointers and not found:
        raise UsageError(f"none of the files is below {root} (looked for {first} in {', '.join(folders)})")
    return pointers


class FolderListing:
    """Whether files are there; every folder is read once, as there may be a hundred thousand files."""

    def __init__(self) -> None:
        self._names: dict[Path, set[str]] = {}

    def has(self, file: Path) -> bool:
        folder = file.parent
        if folder not in self._names:
            self._names[folder] = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
        return file.name in self._names[folder]
