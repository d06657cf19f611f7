"""Datasets by their names: `datasets.coco("/data/coco")`, for `Atlas.ingest` and `Atlas.evaluate`.

One function a dataset of `ingest.datasets` or of a plug-in; each takes the path of its files, where it has any, and the
dataset's own options. `atlas datasets NAME` tells them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ingest.datasets
from atlas import registry
from atlas.errors import unknown
from ingest.requests.named_dataset import NamedDataset


def __getattr__(name: str) -> Callable[..., NamedDataset]:
    if name.startswith("_"):
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    known = registry.names(ingest.datasets)
    if name not in known:
        raise AttributeError(str(unknown("dataset", name, known, "atlas datasets")))

    def dataset(path: str | Path | None = None, **options: Any) -> NamedDataset:
        return NamedDataset(name, None if path is None else str(path), options)

    dataset.__name__ = dataset.__qualname__ = name
    dataset.__doc__ = f"The dataset {name}, for `Atlas.ingest`. path: of its files. options: its own."
    return dataset


def __dir__() -> list[str]:
    return registry.names(ingest.datasets)
