"""What other libraries raise about a user's files, as one line that says which files.

transformers and what it is built on raise every kind of exception about damaged files: KeyError, TypeError, Rust's own.
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
"""What code of this project raises only where it is wrong, and that alone may surface as an internal error."""

PROJECT, MODELS = ("atlas", "ingest", "cli"), "atlas.live.draw.gill_model"
"""Packages whose code is this project's, and of that what is a model's."""

LONGEST = 300
"""How many characters of another library's message are passed on: some list every model there is."""

TOKENIZERS = ("tokenizer.", "vocab.", "spiece.", "sentencepiece.", "tekken.")
"""How the names of files begin that have a tokenizer's words."""

POINTER = b"version https://git-lfs"


@contextmanager
def reading(name: str | Path, what: str = "the model") -> Iterator[None]:
    """Within the block, whatever the libraries raise about the files of `name` is one line.

    what: what is read of it.

    Raises:
        UsageError: the files are damaged, incomplete or of something else.
        Unsupported: a package is missing for them, or memory.
    """
    try:
        yield
    except (AtlasError, Warning):
        raise
    except ImportError as error:
        raise Unsupported(f"{what} '{name}' cannot be loaded here: {first_line(error)}") from error
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise Unsupported(
            f"{what} '{name}' does not fit into the memory here; use --dtype bfloat16, --quantization or --device-map"
        ) from error
    except Exception as error:
        if is_defect(error):
            raise
        raise UsageError(f"cannot load {what} '{name}': {_why(name, error)}") from error


def is_defect(error: Exception) -> bool:
    """Whether it is one of DEFECTS, and of this project's code."""
    return isinstance(error, DEFECTS) and _ours(error)[-1]


def through_ours(error: Exception) -> bool:
    """Whether code of this project raised it, or called what did, inside of what it had called itself: a hook."""
    ours = _ours(error)
    outside = next((i for i, mine in enumerate(ours) if not mine), len(ours))
    return any(ours[outside:]) or outside == len(ours)


def _ours(error: Exception) -> list[bool]:
    """For every call on the way to it, from the outermost: whether it is this project's code."""
    names = [str(frame.f_globals.get("__name__", "")) for frame, _ in walk_tb(error.__traceback__)]
    return [name.partition(".")[0] in PROJECT and not name.startswith(MODELS) for name in names]


def first_line(error: Exception) -> str:
    """The first line of what an exception says; its kind too, where that is all or the text is a mere key."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    line = line if len(line) <= LONGEST else f"{line[:LONGEST]}..."
    if not line or isinstance(error, KeyError | AttributeError | TypeError | IndexError):
        return f"{type(error).__name__}: {line}".rstrip(": ")
    return line


def _why(name: str | Path, error: Exception) -> str:
    if "trust_remote_code" in str(error):
        return "it comes with code of its own; read it, then --trust-remote-code with a pinned --revision"
    files = sorted(Path(name).iterdir()) if Path(name).is_dir() else []
    for file in files:
        if file.is_file() and (wrong := _damage(file)):
            return f"{file.name} {wrong}"
    if files and not any(file.name.startswith(TOKENIZERS) for file in files):
        return (
            "it has no tokenizer (tokenizer.json, or tokenizer.model); put the one beside it that it was trained with"
        )
    return (
        f"{first_line(error)} (give a folder whose files are whole, a HuggingFace id that is in the cache or "
        "reachable, or a name from `atlas models`)"
    )


def _damage(file: Path) -> str:
    """What is wrong with a file of a checkpoint, and what to do; "" where nothing can be seen."""
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
