"""Where an atlas is that nobody named, and where fetched models are."""

from __future__ import annotations

import os
from pathlib import Path


def default_path() -> Path:
    """$NEURON_ATLAS, else `default.atlas` in the user's data folder."""
    if given := os.environ.get("NEURON_ATLAS"):
        return Path(given)
    return _data_folder() / "default.atlas"


def models_folder() -> Path:
    """$NEURON_ATLAS_MODELS, else `models` in the user's data folder: what `atlas models get` writes to."""
    if given := os.environ.get("NEURON_ATLAS_MODELS"):
        return Path(given)
    return _data_folder() / "models"


def _data_folder() -> Path:
    import platformdirs

    return Path(platformdirs.user_data_dir("neuron-atlas"))
