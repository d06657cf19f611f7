"""The half of the atlas that needs torch: a live model, its neurons, and interventions on them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

# With OpenMP's default spin-wait, two threads on busy cores can be far slower than one.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if TYPE_CHECKING:
    from atlas.live.edit.apply import Attached, attached

__all__ = ["Attached", "attached"]


def __getattr__(name: str) -> Any:
    """The public names, imported on first use: some modules here (`pixels`) need no torch."""
    if name not in __all__:
        raise AttributeError(f"module 'atlas.live' has no attribute '{name}'")
    from atlas.live.edit import apply

    return getattr(apply, name)
