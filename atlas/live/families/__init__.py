"""What a model family needs beyond what its modules show: a file `<model_type>.py` with a `FAMILY`."""

from __future__ import annotations

from typing import Any

from atlas import registry
from atlas.live import families
from atlas.live.families._family import Family


def of(config: Any) -> Family:
    """The family of a model's config; a plain one where there is no file for it."""
    kind = str(getattr(config, "model_type", ""))
    if kind in registry.names(families):
        family: Family = registry.load(families, kind).FAMILY
        return family
    return Family()
