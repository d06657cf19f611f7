"""The half of the atlas that needs torch: a live model, its neurons, and interventions on them."""

import os

# With OpenMP's default spin-wait, two threads on busy cores can be far slower than one.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from atlas.live.edit import Attached, attached

__all__ = ["Attached", "attached"]
