"""A dataset by its name, with where it is and its options: what `atlas.datasets.coco("/data/coco")` gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class NamedDataset:
    """name: of a dataset (`atlas datasets` lists them). path: of its files, where it has any. options: its own."""

    name: str
    path: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """As a command line names it: `coco:/data/coco`."""
        return self.name if self.path is None else f"{self.name}:{self.path}"
