"""What a model family needs beyond what is found from its modules: a file `<model_type>.py` with a `FAMILY`."""

from __future__ import annotations

from typing import Any

from atlas import registry
from atlas.live import families
from atlas.live.families._family import Family


def of(config: Any) -> Family:
    """The family of a model's config; one without needs where there is no file for it."""
    kind = str(getattr(config, "model_type", ""))
    if kind in registry.names(families):
        found: Family = registry.load(families, kind).FAMILY
        return found
    return Family()
