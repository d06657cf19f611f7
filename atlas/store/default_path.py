"""Where an atlas is that nobody named."""

from __future__ import annotations

import os
from pathlib import Path


def default_path() -> Path:
    """$NEURON_ATLAS, else `default.atlas` in the user's data folder."""
    if given := os.environ.get("NEURON_ATLAS"):
        return Path(given)
    import platformdirs

    return Path(platformdirs.user_data_dir("neuron-atlas")) / "default.atlas"
