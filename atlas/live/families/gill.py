"""GILL draws with a diffusion model that lies in its folder."""

from __future__ import annotations

from typing import Any

from atlas.live.families._family import Family


def drawer(live: Any) -> Any:
    from atlas.live.drawing import gill

    return gill(live)


FAMILY = Family(drawer=drawer)
