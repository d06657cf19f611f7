"""GILL draws with a diffusion model that lies in its folder."""

from __future__ import annotations

from typing import Any

from atlas.live.families._family import Family


def drawer(live: Any) -> Any:
    from atlas.live.draw.gill_drawer import gill

    return gill(live)


# Torch's own transformer, of which the mapper is made, multiplies with its weights without asking its layers.
FAMILY = Family(drawer=drawer, unquantised=("vision_tower", "visual_projection", "mapper", "language_model.lm_head"))
