"""What other libraries raise about a user's files, as one line that says which files.

transformers and what it is built on raise every kind of exception about damaged files: KeyError, TypeError, Rust's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from atlas.errors import AtlasError, Unsupported, UsageError

DEFECTS = (AssertionError, NameError, Warning)
"""What may surface as an internal error: no file of a user's makes a library raise it."""

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
    except (AtlasError, *DEFECTS):
        raise
    except ImportError as error:
        raise Unsupported(f"{what} '{name}' cannot be loaded here: {first_line(error)}") from error
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise Unsupported(
            f"{what} '{name}' does not fit into the memory here; use --dtype bfloat16, --quantization or --device-map"
        ) from error
    except Exception as error:
        raise UsageError(f"cannot load {what} '{name}': {_why(name, error)}") from error


def first_line(error: Exception) -> str:
    """The first line of what an exception says; its kind too, where that is all or the text is a mere key."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    if not line or isinstance(error, KeyError | AttributeError | TypeError | IndexError):
        return f"{type(error).__name__}: {line}".rstrip(": ")
    return line


def _why(name: str | Path, error: Exception) -> str:
    if "trust_remote_code" in str(error):
        return "it comes with code of its own; read it, then --trust-remote-code with a pinned --revision"
    for file in sorted(Path(name).iterdir()) if Path(name).is_dir() else ():
        if file.is_file():
            with file.open("rb") as opened:
                begin = opened.read(len(POINTER))
            if begin == POINTER:
                return f"{file.name} is a Git LFS pointer and not the file itself; `git lfs pull` in that folder"
            if not begin:
                return f"{file.name} is empty; fetch the file again"
    return (
        f"{first_line(error)} (give a folder whose files are whole, a HuggingFace id that is in the cache or "
        "reachable, or a name from `atlas models`)"
    )
