"""Code that comes with a checkpoint: all of it is the checkpoint's own, so that a pinned revision pins it.

An `auto_map` may name another repository ("owner/repo--module.Class"). transformers then takes the code from there, as
it is on that day, whatever revision of the checkpoint was asked for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from atlas.errors import UsageError

FILES = (
    "config.json",
    "tokenizer_config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
)
"""Where transformers looks for an `auto_map`."""


def check_own(name: str | Path, revision: str | None) -> None:
    """Refuse a checkpoint, a folder or a hub id, whose code would come from another repository.

    Raises:
        UsageError: it would; the message names the repository.
    """
    for file in FILES:
        found = find_file(name, revision, file)
        for reference in _references(read_object(found)):
            other, mark, _ = reference.partition("--")
            if mark and other != str(name):  # a hub id that names itself is read at the revision that was asked for
                raise UsageError(
                    f"{file} of '{name}' takes its code from another repository, {other}, which --revision does not "
                    f"pin; download {other}, read its .py files, put them beside the model in a folder, take "
                    f"'{other}--' out of {file}, and give that folder"
                )


def find_file(name: str | Path, revision: str | None, file: str) -> Path | None:
    """A file of a checkpoint, a folder or a hub id; None where it has none."""
    if Path(name).is_dir():
        return Path(name) / file if (Path(name) / file).is_file() else None
    from transformers.utils.hub import cached_file

    # As transformers itself looks for files that not every checkpoint has.
    missing = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    found = cached_file(str(name), file, revision=revision, **missing)
    return None if found is None else Path(found)


def read_object(file: Path | None) -> dict[str, Any]:
    """The JSON object in a file; empty where there is none, or what is there is transformers' to refuse."""
    try:
        found = json.loads(file.read_text(encoding="utf-8")) if file is not None else {}
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _references(found: Any, inside: bool = False) -> Iterator[str]:
    """Every text under an `auto_map`, at any depth: processors' settings lie in one another."""
    if isinstance(found, str):
        if inside:
            yield found
    elif isinstance(found, list):
        for one in found:
            yield from _references(one, inside)
    elif isinstance(found, dict):
        for key, one in found.items():
            yield from _references(one, inside or key == "auto_map")
