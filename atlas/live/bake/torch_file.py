"""Torch checkpoint files, read as tensors only."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from atlas.errors import UsageError

TORCH_FILE = (b"PK\x03\x04", b"\x80")  # a zip archive, or what torch wrote before 1.6


def read_torch(file: Path, key: str) -> dict[str, Tensor]:
    """The tensors of a torch file under a key, by name, without the prefixes of distributed training.

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
    state = content.get(key) if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping):
        raise UsageError(f"{file} has no tensors under '{key}'; give the official checkpoint")
    return {name.replace("module.", ""): value for name, value in state.items() if isinstance(value, Tensor)}


def _why_not(error: Exception) -> str:
    """Why a torch file was not read. Torch's own message also says how to read it anyway, so it is not repeated."""
    forbidden = re.search(r"GLOBAL ([\w.]+)", str(error))
    if forbidden is not None:
        return f"is not a checkpoint of tensors alone: it asks to run {forbidden[1]}, and was not read"
    return "is not a checkpoint of tensors alone, or is damaged"
