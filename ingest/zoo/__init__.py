"""Models that ship with the project: a folder `ingest/zoo/<name>/` each, made by the recipe in `ingest/zoo/train/`."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parent


def names() -> list[str]:
    """The embedded models."""
    return sorted(folder.parent.name for folder in _HERE.glob("*/config.json"))


def find(name: str) -> Path | None:
    """The folder of an embedded model, or None where the name is none of them."""
    return _HERE / name if name in names() else None
