"""Models that ship with the project: a folder `ingest/zoo/<name>/` each, made by the recipe in `ingest/zoo/train/`."""

from __future__ import annotations

from pathlib import Path

from atlas.errors import unknown

_HERE = Path(__file__).parent


def names() -> list[str]:
    """The embedded models."""
    return sorted(folder.parent.name for folder in _HERE.glob("*/config.json"))


def resolve(name: str) -> str | Path:
    """What to load for a model's name: an embedded model's folder, else the name, a folder or a HuggingFace id.

    Raises:
        UsageError: it can be none of these; the message has the nearest embedded name.
    """
    # A HuggingFace id has an owner before a slash; asking the hub for a misspelt embedded name takes half a minute.
    if name in names():
        return _HERE / name
    if "/" in name or (name and Path(name).is_dir()):
        return name
    raise unknown("model", name, names(), "atlas models")
