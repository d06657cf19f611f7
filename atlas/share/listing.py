"""A bundle: an atlas, or a part of it, as a folder to share. Parquet and JSON only, verified by checksums.

    README.md           a dataset card for people and for the Hub; nothing reads it back
    bundle.json         what is in the bundle, written last
    runs/<id>/          as in the atlas (`atlas.store.run_manifest`), without paths of the machine that made it
    edits/              `<name>@<version>.json`, and deltas, `<sha256>.safetensors`
    selections/         `<name>.json`

bundle.json:

    format      1
    schema      the database revision of the program that wrote it; each run's manifest has its own
    program     its name and version
    filter      what was chosen of the atlas, or null: all of it
    runs        [{"run_id", "kind", "model", "dataset", "methods", "concepts", "maps", "scores", "examples"}, ...]
    models      [{"name", "revision", "fingerprint"}, ...]
    datasets    [{"name", "revision", "licence"}, ...]
    edits       ["no-dog@1", ...]
    selections  ["dog", ...]
    citation    {"text", "papers"}
    files       {"runs/<id>/scores.parquet": {"bytes": 183002, "sha256": "..."}, ...}: every file but README.md
"""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atlas.errors import IntegrityError, StoreUnavailable, UsageError
from atlas.store.atomic import hub_blob
from atlas.store.database import VERSION
from atlas.store.run_manifest import NAME as MANIFEST
from atlas.store.run_manifest import SHARDS

FORMAT = 1
NAME = "bundle.json"
CARD = "README.md"
LARGEST_JSON = 64 << 20
"""Bytes of a JSON file of a bundle; a larger one is refused unread."""

_NAMED = "[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_RUN_FILE = re.compile(rf"runs/([0-9a-f]{{8,64}})/({re.escape(MANIFEST)}|(?:{'|'.join(SHARDS)})\.parquet)")
_VERSION = rf"{_NAMED}@[1-9][0-9]{{0,8}}"
_EDIT = re.compile(rf"edits/({_VERSION})\.json")
_TENSORS = re.compile(r"edits/([0-9a-f]{64})\.safetensors")
_SELECTION = re.compile(rf"selections/({_NAMED})\.json")
_SUM = re.compile("[0-9a-f]{64}")
REVISION = re.compile("[0-9]{4}")
LABEL = re.compile(_VERSION)
"""A version of an edit: name@number."""

MALFORMED = (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError, OverflowError, MemoryError)
"""Exceptions that reading malformed data raises."""


@dataclass(frozen=True, slots=True)
class Listing:
    """The checked content of bundle.json. files: (bytes, sha256) by name; runs, edits and selections by name."""

    schema: str
    files: Mapping[str, tuple[int, str]]
    runs: tuple[str, ...]
    edits: tuple[str, ...]
    selections: tuple[str, ...]
    payload: Mapping[str, Any]


def safe_name(name: str) -> bool:
    """Whether a file of this name may be in a bundle."""
    return any(form.fullmatch(name) for form in (_RUN_FILE, _EDIT, _TENSORS, _SELECTION))


def read_listing(folder: Path) -> Listing:
    """Read a bundle's bundle.json.

    Raises:
        UsageError: no bundle there.
        StoreUnavailable: a newer program wrote it.
        IntegrityError: it is damaged, or has names that no bundle can have.
    """
    file = folder / NAME
    if not folder.is_dir() or not (file.exists() or file.is_symlink()):
        raise UsageError(f"there is no bundle at {folder}: no {NAME}; `atlas export FOLDER` writes one")
    return parse_listing(small_file(plain_file(folder, NAME)), str(folder))


def small_file(file: Path) -> bytes:
    """The bytes of a JSON file of a bundle.

    Raises:
        IntegrityError: it is not a plain file, or too large.
    """
    about = file.lstat()
    if not stat.S_ISREG(about.st_mode):
        raise IntegrityError(f"{file} is not a plain file")
    if about.st_size > LARGEST_JSON:
        raise IntegrityError(f"{file} has {about.st_size:,} bytes; at most {LARGEST_JSON:,} are allowed")
    return file.read_bytes()


def plain_json(content: bytes, where: str) -> dict[str, Any]:
    """A JSON object from untrusted bytes.

    Raises:
        IntegrityError: they are not a JSON object, or have numbers that JSON does not allow.
    """

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is not a JSON number")

    try:
        payload = json.loads(content.decode("utf-8"), parse_constant=refuse)
        json.dumps(payload, ensure_ascii=False).encode("utf-8")  # half of a surrogate pair is not text
    except MALFORMED as error:
        raise IntegrityError(f"{where} is damaged: {_short(error)}") from error
    if not isinstance(payload, dict):
        raise IntegrityError(f"{where} is damaged: it is not an object")
    return payload


def parse_listing(content: bytes, where: str) -> Listing:
    """See `read_listing`. where: the bundle, for messages."""
    payload = plain_json(content, f"{NAME} of {where}")
    form, revision = payload.get("format"), payload.get("schema")
    if type(form) is int and form > FORMAT:
        raise StoreUnavailable(f"the bundle {where} has format {form}; `pip install --upgrade neuron-atlas`")
    if type(form) is not int or form != FORMAT:
        raise IntegrityError(f"{NAME} of {where} is not that of a bundle of format {FORMAT}")
    if not isinstance(revision, str) or not REVISION.fullmatch(revision):
        raise IntegrityError(f"{NAME} of {where} does not name a schema")
    if revision > VERSION:
        raise StoreUnavailable(
            f"the bundle {where} has schema {revision}, newer than {VERSION}, the newest that this program knows; "
            "`pip install --upgrade neuron-atlas`"
        )
    files = _files(payload.get("files"), where)
    runs = _texts([r.get("run_id") if isinstance(r, dict) else r for r in _list(payload, "runs", where)], "runs", where)
    edits, saved = (_texts(_list(payload, key, where), key, where) for key in ("edits", "selections"))
    names_by_kind = {
        "runs": {m[1] for m in map(_RUN_FILE.fullmatch, files) if m},
        "edits": {m[1] for m in map(_EDIT.fullmatch, files) if m},
        "selections": {m[1] for m in map(_SELECTION.fullmatch, files) if m},
    }
    for key, names in (("runs", runs), ("edits", edits), ("selections", saved)):
        if len(set(names)) != len(names) or set(names) != names_by_kind[key]:
            raise IntegrityError(f"{NAME} of {where} lists {key} that do not match its files")
    for run in runs:
        if f"runs/{run}/{MANIFEST}" not in files:
            raise IntegrityError(f"run {run[:12]} of {where} has no {MANIFEST}")
    return Listing(revision, files, runs, edits, saved, payload)


def _files(entries: Any, where: str) -> dict[str, tuple[int, str]]:
    if not isinstance(entries, dict):
        raise IntegrityError(f"{NAME} of {where} has no list of files")
    files = {}
    for name, entry in entries.items():
        if not safe_name(name):
            raise IntegrityError(f"{NAME} of {where} names {name[:200]!r}, which no bundle can have; nothing was read")
        size, digest = (entry.get("bytes"), entry.get("sha256")) if isinstance(entry, dict) else (None, None)
        if type(size) is not int or not 0 <= size < 1 << 63 or not isinstance(digest, str):
            raise IntegrityError(f"{NAME} of {where} has no size and checksum of {name}")
        if not _SUM.fullmatch(digest) or (name.endswith(".json") and size > LARGEST_JSON):
            raise IntegrityError(f"{NAME} of {where} has an impossible size or checksum of {name}")
        files[name] = (size, digest)
    return files


def _list(payload: Mapping[str, Any], key: str, where: str) -> list[Any]:
    if not isinstance(payload.get(key), list):
        raise IntegrityError(f"{NAME} of {where} has no list of {key}")
    return list(payload[key])


def _texts(values: list[Any], key: str, where: str) -> tuple[str, ...]:
    if not all(isinstance(name, str) for name in values):
        raise IntegrityError(f"{NAME} of {where} has {key} that are not names")
    return tuple(values)


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def plain_file(folder: Path, name: str) -> Path:
    """A file of a bundle, reached without links, except those of the Hub's cache, which are followed.

    Raises:
        IntegrityError: it is missing, or a link, a folder, a pipe or a device.
    """
    at = folder
    for part in name.split("/"):
        at = at / part
        try:
            mode = at.lstat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            raise IntegrityError(f"{folder / name} is missing from the bundle; fetch it again") from None
        if stat.S_ISLNK(mode) and (blob := hub_blob(folder, at)) is not None:
            at, mode = blob, blob.stat().st_mode
        if stat.S_ISLNK(mode):
            raise IntegrityError(f"{at} is a link; a bundle has plain files only")
    if not stat.S_ISREG(mode):
        raise IntegrityError(f"{at} is not a plain file; a bundle has plain files only")
    return at


STORED, ALREADY_STORED, RENAMED, REFUSED = "stored", "already there", "renamed", "refused"


@dataclass(frozen=True, slots=True)
class ImportOutcome:
    """The outcome of importing one thing. kind: run, edit or selection. outcome: stored, already there, renamed (`note`
    has the old name), or refused (`note` says why)."""

    kind: str
    name: str
    outcome: str
    note: str = ""
