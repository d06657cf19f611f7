"""Code that comes with a checkpoint: it must be in the checkpoint's own repository, so that a revision pins it.

An `auto_map` may name another repository ("owner/repo--module.Class"). transformers then takes the newest code from
there, whatever revision of the checkpoint was requested.
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


def check_own_code(name: str | Path, revision: str | None) -> None:
    """Refuse a checkpoint, a folder or a hub id, whose code would come from another repository.

    Raises:
        UsageError: it would come from another repository; the message names it.
    """
    for file in FILES:
        path = find_file(name, revision, file)
        for reference in _references(read_object(path)):
            repository, mark, _ = reference.partition("--")
            if mark and repository != str(name):  # its own repository is read at the given revision
                raise UsageError(
                    f"{file} of '{name}' takes its code from another repository, {repository}, which [[revision]] "
                    f"does not pin; download {repository}, read its .py files, put them beside the model in a folder, "
                    f"take '{repository}--' out of {file}, and give that folder"
                )


def find_file(name: str | Path, revision: str | None, file: str) -> Path | None:
    """The path of a file of a checkpoint (a folder or a hub id); None where it does not have the file."""
    if Path(name).is_dir():
        return Path(name) / file if (Path(name) / file).is_file() else None
    from transformers.utils.hub import cached_file

    # As transformers itself looks for optional files.
    missing = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    cached = cached_file(str(name), file, revision=revision, **missing)
    return None if cached is None else Path(cached)


def read_object(file: Path | None) -> dict[str, Any]:
    """The JSON object in a file; empty without one, or where the content is for transformers to refuse."""
    try:
        content = json.loads(file.read_text(encoding="utf-8")) if file is not None else {}
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _references(content: Any, inside: bool = False) -> Iterator[str]:
    """Every text under an `auto_map`, at any depth: processors' settings are nested."""
    if isinstance(content, str):
        if inside:
            yield content
    elif isinstance(content, list):
        for part in content:
            yield from _references(part, inside)
    elif isinstance(content, dict):
        for key, part in content.items():
            yield from _references(part, inside or key == "auto_map")
