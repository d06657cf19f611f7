"""A model and pictures, as a command line names them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import ingest.datasets
from atlas import registry
from atlas.live.model import LiveModel
from ingest.examples import BadMedia
from ingest.job import Execution, Job, open_dataset
from ingest.media import open_image
from ingest.run import load_model

if TYPE_CHECKING:
    from PIL.Image import Image


def load_for(model: str, *, revision: str | None = None, device: str = "cpu", dtype: str = "float32") -> LiveModel:
    """A live model by embedded name, folder or HuggingFace id."""
    return load_model(Job(model=model, revision=revision, dtype=dtype), Execution(device=device))


def open_pictures(names: Sequence[str]) -> list[Image]:
    """Several pictures; see `open_picture`."""
    return [open_picture(name) for name in names]


def open_picture(name: str) -> Image:
    """A picture by file name, or as DATASET:POINTER for a dataset that draws its own (scenes:held_out/3).

    Raises:
        BadMedia: missing, corrupt or too large.
    """
    dataset, colon, pointer = name.partition(":")
    if colon and not Path(name).exists() and dataset in registry.names(ingest.datasets):
        return open_dataset(Job(dataset=dataset)).image(pointer)
    if not Path(name).is_file():
        raise BadMedia(f"there is no picture file {name}; give a file, or DATASET:POINTER such as scenes:held_out/3")
    return open_image(Path(name))
