"""Torch checkpoint files, read as tensors only."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from atlas.errors import UsageError

TORCH_FILE = (b"PK\x03\x04", b"\x80")  # a zip archive, or what torch wrote before 1.6


def read_torch(file: Path, key: str | None = None) -> dict[str, Tensor]:
    """The tensors of a torch file by name, without the prefixes of distributed training.

    key: what they are under; None where the file is nothing but tensors by name.

    Raises:
        UsageError: no such file, more in it than tensors, or no such key.
    """
    try:
        with file.open("rb") as opened:
            begin = opened.read(4)
        if not begin.startswith(TORCH_FILE):
            raise UsageError(f"{file} is not a torch checkpoint; give the file that the authors published")
        content = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UsageError(f"there is no file {file}") from None
    except IsADirectoryError:
        raise UsageError(f"{file} is a folder; give the checkpoint in it") from None
    except (UsageError, MemoryError):
        raise
    except Exception as error:  # a damaged or dangerous file makes the unpickler raise anything
        raise UsageError(f"{file} {_why_not(error)}; give the file that the authors published") from None
    state = content.get(key) if isinstance(content, Mapping) and key is not None else content
    if not isinstance(state, Mapping):
        under = "" if key is None else f" under '{key}'"
        raise UsageError(f"{file} has no tensors{under}; give the official checkpoint")
    return {name.replace("module.", ""): value for name, value in state.items() if isinstance(value, Tensor)}


def _why_not(error: Exception) -> str:
    """Why a torch file was not read. Torch's own message also says how to read it anyway, so it is not repeated."""
    forbidden = re.search(r"GLOBAL ([\w.]+)", str(error))
    if forbidden is not None:
        return f"is not a checkpoint of tensors alone: it asks to run {forbidden[1]}, and was not read"
    return "is not a checkpoint of tensors alone, or is damaged"
