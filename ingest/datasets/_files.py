"""Reading a folder that someone else made: check its annotations, find its media, stay inside it."""

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
from atlas.store.atomic import allowed_folders, expand_home
from ingest.data.examples import FIND, HELD_OUT, BadMedia

SHOWN = 3
"""How many of the left-out items a warning names."""

EVERY = "*"
"""The name under which the atlas stores what is over all concepts of a dataset; no concept may have it."""


def sort_key(seed: int, purpose: str, key: object) -> str:
    """Hex digits to sort by: a random order of the keys by seed, the same on every machine."""
    return hashlib.sha256(f"{seed}/{purpose}/{key}".encode()).hexdigest()


def split_of(key: object) -> str:
    """ "held_out" for about one picture (speaker, ...) in five, by a hash of its id: the same in every subset."""
    return HELD_OUT if int(sort_key(0, "split", key)[:8], 16) % 5 == 0 else FIND


def refuse_path(path: str | None, name: str) -> None:
    """Raise UsageError where a path was given to a dataset that is in the package."""
    if path is not None:
        raise UsageError(f"{name} comes with the package and reads no folder ('{path}'); use [[dataset={name}]]")


def check_names(kind: str, names: Sequence[str], known: Iterable[str]) -> None:
    """Raise UsageError for the first unknown name, suggesting the nearest known one."""
    known_names = list(known)
    for name in names:
        if name not in known_names:
            raise unknown(kind, name, known_names, "atlas datasets")


def require_inside(name: str) -> None:
    """Refuse a medium's name that is absolute or climbs out of its folder.

    Raises:
        BadMedia: the message has the name.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    if any(len(part.encode(errors="replace")) > 255 for part in path.parts):
        raise BadMedia(f"the name '{name[:80]}...' is too long for a file")
    if not path.name or path.is_absolute() or ".." in path.parts or ":" in path.parts[0] or "\0" in name:
        raise BadMedia(f"the name '{name}' leads out of the dataset's folder")


def resolve_media(root: Path, media: str) -> Path:
    """The file behind a pointer, with links followed.

    Raises:
        BadMedia: it is outside the root, and outside the Hub's cache that contains the root.
    """
    require_inside(media)
    try:
        path = (root / media).resolve(strict=True)
    except FileNotFoundError:  # reported when it is opened
        path = (root / media).resolve()
    except (OSError, RuntimeError) as error:  # links in a circle, a folder that may not be entered
        raise BadMedia(f"{root / media} cannot be followed: {error}") from error
    if not any(path.is_relative_to(allowed) for allowed in allowed_folders(root)):
        raise BadMedia(f"{root / media} is a link out of the dataset's folder; give the folder it leads to")
    return path


def dataset_folder(path: str | None, name: str) -> Path:
    """The dataset's folder.

    Raises:
        UsageError: no folder was given, or it does not exist.
    """
    if path is None:
        raise UsageError(f"{name} needs a folder; use [[dataset={name}:PATH]]")
    root = expand_home(path)
    if not root.is_dir():
        raise UsageError(f"there is no folder {root}; use [[dataset={name}:PATH]]")
    return root


def find_one_file(root: Path, patterns: Sequence[str], layout: str) -> Path:
    """The one file that matches the first pattern that has a match.

    layout: what the folder should look like, for the message.

    Raises:
        UsageError: no pattern matches a file, or a pattern matches several.
    """
    for pattern in patterns:
        files = sorted(file for file in root.glob(pattern) if file.is_file())
        if len(files) > 1:
            raise UsageError(f"{root} has {' and '.join(f.name for f in files[:2])}; keep one of them")
        if files:
            return files[0]
    raise UsageError(f"{root} has no {' or '.join(patterns)}; expected: {layout}")


def read_text(file: Path) -> str:
    """The text of a UTF-8 file.

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
        UsageError: missing, truncated or not JSON.
    """
    try:
        return json.loads(read_text(file))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{file} is not JSON, or truncated: {error}; download it again") from error


def read_csv(file: Path) -> list[tuple[str, Mapping[str, str | None]]]:
    """The rows of a CSV file, each with its file and line for messages; column names in lower case.

    Cells are separated like the first line's: by commas, semicolons, tabs or bars.

    Raises:
        UsageError: not a table, no rows, two columns of one name, or a row with more cells than columns.
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
            raise UsageError(f"{where} has {len(row)} cells for {len(names)} columns; quote cells that contain commas")
    return [(where, dict(zip_longest(names, row))) for where, row in cells[1:]]


def read_jsonl(file: Path) -> list[tuple[str, Mapping[str, Any]]]:
    """The rows of a JSON Lines file, each with its file and line for messages.

    Raises:
        UsageError: missing, a line that is not an object, or no lines.
    """
    rows: list[tuple[str, Mapping[str, Any]]] = []
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
        rows.append((where, row))
    if not rows:
        raise UsageError(f"{file} has no rows; there is nothing to ingest")
    return rows


def read_json_rows(file: Path, key: str | None) -> list[Mapping[str, Any]]:
    """The rows of a JSON file: the list itself, or the list under `key`.

    Raises:
        UsageError: not JSON, no such list, an empty one, or a row that is not an object.
    """
    content = read_json(file)
    rows = content if key is None else content.get(key) if isinstance(content, dict) else None
    if not isinstance(rows, list):
        raise UsageError(f"{file} has an unexpected form: it has no list{f' of {key}' if key else ''}")
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise UsageError(f"{file}: row {number} is not an object: {json.dumps(row)[:80]}")
    if not rows:
        raise UsageError(f"{file} has no rows; there is nothing to ingest")
    return rows


def warn_left_out(subject: str, items: Sequence[str], total: int, action: str = "left out") -> None:
    """Warn that some of `total` rows are left out, or what else was done with them, naming the first of them."""
    if items:
        remainder = f", and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
        message = f"{subject}: {len(items):,} of {total:,} {action}: {'; '.join(items[:SHOWN])}{remainder}"
        warnings.warn(message, AtlasWarning, 4)


def warn_case_variants(names: Sequence[str]) -> None:
    """Warn of concepts whose names differ only in capitals."""
    by_lower_case: dict[str, list[str]] = {}
    for name in names:
        by_lower_case.setdefault(name.casefold(), []).append(name)
    variants = [" and ".join(map(repr, spellings)) for spellings in by_lower_case.values() if len(spellings) > 1]
    if variants:
        message = "concepts that differ only in capitals are scored separately; spell them alike to make them one"
        warnings.warn(f"{message}: {'; '.join(variants[:SHOWN])}", AtlasWarning, 4)


def require_unique(rows: Sequence[Mapping[str, Any]], key: str, file: Path) -> None:
    """Raise UsageError where two rows have the same value of `key`, or a row has none."""
    known_values: set[str] = set()
    for number, row in enumerate(rows):
        value = identifier(row.get(key), f"{file}: the {key} of row {number}")
        if value in known_values:
            raise UsageError(f"{file}: row {number} has the {key} {value} a second time")
        known_values.add(value)


def stripped_text(value: object, where: str) -> str:
    """A text without surrounding white space.

    where: file, row and field, for the message.

    Raises:
        UsageError: not a text, an empty one, or one that cannot be encoded (half of a surrogate pair).
    """
    if not isinstance(value, str) or not value.strip():
        raise UsageError(f"{where} is not text: {json.dumps(value, default=str)[:80]}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{where} has half a character: {value[:80]!a}") from None
    return value.strip()


def one_line(value: object, where: str) -> str:
    """A text in one line, with single spaces; see `stripped_text`."""
    return " ".join(stripped_text(value, where).split())


def identifier(value: object, where: str) -> str:
    """An id, a whole number or a text, as text.

    Raises:
        UsageError: it is neither.
    """
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else stripped_text(value, where)


def media_pointers(root: Path, folders: Sequence[str], names: Iterable[str]) -> list[str]:
    """Each name's pointer: below the first of the folders that has the file, else below the first of them.

    Raises:
        BadMedia: a name leads out of the folder.
        UsageError: none of the files exists.
    """
    listing, any_exists, pointers, first_name = FolderListing(), False, [], ""
    for raw_name in names:
        require_inside(raw_name)
        name = PurePosixPath(raw_name.replace("\\", "/")).as_posix()  # "./a.png" is a.png, and in its split
        first_name = first_name or name
        folder = next((p for p in folders if listing.has(root / p / name)), None)
        any_exists = any_exists or folder is not None
        folder = folders[0] if folder is None else folder
        pointers.append(name if folder == "." else f"{folder}/{name}")
    if pointers and not any_exists:
        raise UsageError(f"none of the files is below {root} (looked for {first_name} in {', '.join(folders)})")
    return pointers


class FolderListing:
    """Tells whether files exist; every folder is read once, as it may have a hundred thousand files."""

    def __init__(self) -> None:
        self._names: dict[Path, set[str]] = {}

    def has(self, file: Path) -> bool:
        """Whether the file exists."""
        folder = file.parent
        if folder not in self._names:
            self._names[folder] = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
        return file.name in self._names[folder]
