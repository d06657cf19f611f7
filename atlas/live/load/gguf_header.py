"""The header of a GGUF file (llama.cpp's format): what it is of, and whether the file has all of its tensors.

The libraries that read GGUF take a cut file as far as it goes, so its sizes are checked here first. Layout:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import importlib.util
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from atlas.errors import Unsupported, UsageError

MAGIC, VERSIONS = b"GGUF", (2, 3)
STRING, ARRAY = 8, 9
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""Type of a value -> its `struct` format."""

ALIGNMENT = 32
DEEPEST, MOST_DIMENSIONS = 4, 8


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of the file. shape: in PyTorch's order. kind: how its numbers are stored: "F16", "Q4_1"."""

    shape: tuple[int, ...]
    kind: str

    @property
    def numbers(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Header:
    """fields: name -> a number or a text; of an array, how many elements it has. tensors: by their GGUF names."""

    fields: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    @property
    def architecture(self) -> str:
        """llama.cpp's name of the model's family: "llama", "qwen2"."""
        return str(self.fields.get("general.architecture", ""))


def require_packages(what: str) -> None:
    """Raise Unsupported where a package that reads GGUF is missing."""
    for package in ("gguf", "accelerate"):
        if importlib.util.find_spec(package) is None:
            raise Unsupported(f"{what} needs {package}: pip install 'neuron-atlas[gguf]'")


def read_header(file: Path) -> Header:
    """Read a file's header, and check that the file is as long as its tensors need. Needs the package gguf.

    Raises:
        UsageError: it is not a GGUF file, or it is damaged or cut.
        Unsupported: a version of the format, or a kind of number, that the package does not know.
    """
    try:
        with file.open("rb") as opened:
            reader = _Reader(opened, file.stat().st_size)
            if opened.read(len(MAGIC)) != MAGIC:
                raise UsageError(f"{file} is not a GGUF file; give one, or a folder with safetensors")
            return _header(file, reader)
    except (struct.error, UnicodeDecodeError, ValueError, OverflowError) as error:
        raise UsageError(f"{file} is damaged or cut ({error}); fetch the file again") from None


def _header(file: Path, reader: _Reader) -> Header:
    version = reader.number("I")
    if version not in VERSIONS:
        raise Unsupported(f"{file} is in version {version} of GGUF; versions 2 and 3 are read: convert it again")
    tensor_count, field_count = reader.number("Q"), reader.number("Q")
    fields: dict[str, Any] = {}
    for _ in range(field_count):
        name = reader.text()
        fields[name] = reader.value(reader.number("I"))
    alignment = int(fields.get("general.alignment", ALIGNMENT))
    tensors: dict[str, Tensor] = {}
    ends = [0]
    for _ in range(tensor_count):
        name = reader.text()
        dimensions = reader.number("I")
        if dimensions > MOST_DIMENSIONS or name in tensors:
            raise ValueError(f"the tensor {name[:60]!r} cannot be so")
        shape = tuple(reversed([reader.number("Q") for _ in range(dimensions)]))
        kind, size = _stored(file, name, reader.number("I"), shape)
        ends.append(reader.number("Q") + size)
        tensors[name] = Tensor(shape, kind)
    start = math.ceil(reader.position / max(1, alignment)) * max(1, alignment)
    if start + max(ends) > reader.size:
        raise ValueError(f"it has {reader.size:,} bytes and its tensors need {start + max(ends):,}")
    return Header(fields, tensors)


def _stored(file: Path, name: str, kind: int, shape: tuple[int, ...]) -> tuple[str, int]:
    """The name of a kind of number, and how many bytes a tensor takes in it."""
    import gguf

    try:
        known = gguf.GGMLQuantizationType(kind)
        block, size = gguf.GGML_QUANT_SIZES[known]
    except (ValueError, KeyError):
        raise Unsupported(
            f"{file} stores {name} as numbers of kind {kind}, which the package gguf does not know; "
            "update it, or take a file of another quantization"
        ) from None
    numbers = math.prod(shape)
    if shape and shape[-1] % block:
        raise ValueError(f"the tensor {name[:60]!r} has rows of {shape[-1]:,} numbers, not of whole blocks")
    return known.name, numbers // block * size


class _Reader:
    """Little-endian values in order. size: of the file in bytes; nothing in it can be longer."""

    def __init__(self, opened: BinaryIO, size: int):
        self._opened, self.size = opened, size

    @property
    def position(self) -> int:
        return self._opened.tell()

    def number(self, form: str) -> Any:
        content = self._opened.read(struct.calcsize(f"<{form}"))
        return struct.unpack(f"<{form}", content)[0]

    def text(self) -> str:
        length = self.number("Q")
        if length > self.size - self.position:
            raise ValueError("a text in its header is longer than the file")
        return self._opened.read(length).decode("utf-8")

    def value(self, kind: int, depth: int = 0) -> Any:
        """A number or a text; of an array, how many elements it has."""
        if kind == STRING:
            return self.text()
        if kind in NUMBERS:
            return self.number(NUMBERS[kind])
        if kind != ARRAY or depth > DEEPEST:
            raise ValueError(f"its header has a value of kind {kind}")
        element, count = self.number("I"), self.number("Q")
        if count > self.size - self.position:
            raise ValueError("an array in its header is longer than the file")
        if element in NUMBERS:
            end = self.position + count * struct.calcsize(f"<{NUMBERS[element]}")
            if end > self.size:
                raise ValueError("an array in its header is longer than the file")
            self._opened.seek(end)
        else:
            for _ in range(count):
                self.value(element, depth + 1)
        return count
