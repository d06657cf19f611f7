"""GILL draws with a diffusion model in its own folder."""

from __future__ import annotations

from typing import Any

from atlas.live.families._family import Family


def drawer(live: Any) -> Any:
    """The drawer of a GILL model."""
    from atlas.live.draw.gill_drawer import gill

    return gill(live)


# The mapper is torch's own transformer, which multiplies with its weights without calling its layers.
FAMILY = Family(drawer=drawer, unquantised=("vision_tower", "visual_projection", "mapper", "language_model.lm_head"))
