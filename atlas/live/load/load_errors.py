"""Errors of other libraries about a user's files, as one line that names the files.

transformers and its dependencies raise every kind of exception about damaged files: KeyError, TypeError, Rust's own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import walk_tb

import torch
from safetensors import SafetensorError, safe_open

from atlas.errors import AtlasError, Unsupported, UsageError

DEFECTS = (AssertionError, NameError)
"""Exceptions that mean a defect in this project's code, the only ones to surface as internal errors."""

PROJECT, MODELS = ("atlas", "ingest", "cli"), "atlas.live.draw.gill_model"
"""This project's packages, and the module in them that is a model's code."""

LONGEST = 300
"""How many characters of another library's message to show: some list every model there is."""

TOKENIZERS = ("tokenizer.", "vocab.", "spiece.", "sentencepiece.", "tekken.")
"""Prefixes of the names of files with a tokenizer's words."""

POINTER = b"version https://git-lfs"


@contextmanager
def explain_load_errors(name: str | Path, what: str = "the model") -> Iterator[None]:
    """Within the block, turn whatever the libraries raise about the files of `name` into an error of one line.

    what: the part that is read.

    Raises:
        UsageError: the files are damaged, incomplete or not what they should be.
        Unsupported: a package for them is missing, or memory ran out.
    """
    try:
        yield
    except (AtlasError, Warning):
        raise
    except ImportError as error:
        raise Unsupported(f"{what} '{name}' cannot be loaded here: {first_line(error)}") from error
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise Unsupported(
            f"{what} '{name}' does not fit into memory; use [[dtype=bfloat16]], [[quantization]] or [[device_map]]"
        ) from error
    except Exception as error:
        if is_defect(error):
            raise
        raise UsageError(f"cannot load {what} '{name}': {_why(name, error)}") from error


def is_defect(error: Exception) -> bool:
    """Whether it is one of DEFECTS, raised by this project's code."""
    return isinstance(error, DEFECTS) and _calls_of_ours(error)[-1]


def through_ours(error: Exception) -> bool:
    """Whether this project's code raised it, also in a hook that other code called."""
    ours_by_call = _calls_of_ours(error)
    outside = next((i for i, is_ours in enumerate(ours_by_call) if not is_ours), len(ours_by_call))
    return any(ours_by_call[outside:]) or outside == len(ours_by_call)


def _calls_of_ours(error: Exception) -> list[bool]:
    """For every call in its traceback, from the outermost: whether it is this project's code."""
    names = [str(frame.f_globals.get("__name__", "")) for frame, _ in walk_tb(error.__traceback__)]
    return [name.partition(".")[0] in PROJECT and not name.startswith(MODELS) for name in names]


def first_line(error: Exception) -> str:
    """The first line of an exception's message, with its type where the message is empty or only a key."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    line = line if len(line) <= LONGEST else f"{line[:LONGEST]}..."
    if not line or isinstance(error, KeyError | AttributeError | TypeError | IndexError):
        return f"{type(error).__name__}: {line}".rstrip(": ")
    return line


def _why(name: str | Path, error: Exception) -> str:
    if "trust_remote_code" in str(error):
        return "it comes with code of its own; read it, then use [[trust_remote_code]] with a pinned [[revision]]"
    files = sorted(Path(name).iterdir()) if Path(name).is_dir() else []
    for file in files:
        if file.is_file() and (damage := _damage(file)):
            return f"{file.name} {damage}"
    if files and not any(file.name.startswith(TOKENIZERS) for file in files):
        return (
            "it has no tokenizer (tokenizer.json, or tokenizer.model); put the one that it was trained with beside it"
        )
    return (
        f"{first_line(error)} (give a folder whose files are whole, a HuggingFace id that is in the cache or "
        "reachable, or a name from `atlas models`)"
    )


def _damage(file: Path) -> str:
    """What is wrong with a file of a checkpoint, and what to do; "" where nothing is."""
    with file.open("rb") as opened:
        begin = opened.read(len(POINTER))
    if begin == POINTER:
        return "is a Git LFS pointer and not the file itself; `git lfs pull` in that folder"
    if not begin:
        return "is empty; fetch the file again"
    try:
        if file.suffix == ".json" and not isinstance(json.loads(file.read_text(encoding="utf-8")), dict):
            return "is not a JSON object; fetch the file again"
        if file.suffix == ".safetensors":
            with safe_open(file, "pt"):
                pass
    except (ValueError, RecursionError, SafetensorError) as error:
        return f"is damaged or cut ({first_line(error)}); fetch the file again"
    return ""
