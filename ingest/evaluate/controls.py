"""Which random neurons stand beside those of an edit: of the same layers, or also about as loud."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from atlas.errors import UsageError, unknown
from atlas.neurons import Neuron
from atlas.stats.loudness import stored_loudness
from atlas.stats.random_neurons import matched_random
from atlas.store.database import open_readonly

if TYPE_CHECKING:
    import numpy as np

    from atlas.live.model import LiveModel

LAYERS, ACTIVATION = KINDS = ("layers", "activation")


@dataclass(frozen=True)
class Controls:
    """How random neurons are drawn. kind: of the same layers, or of the same layers and mean |activation|.

    loudness: layer -> (width,), of the second kind.
    """

    kind: str
    width: int
    loudness: Mapping[int, np.ndarray] = field(default_factory=dict)

    def draw(self, neurons: Sequence[Neuron], seed: int) -> list[Neuron]:
        """As many other neurons, in the order of layers; see `matched_random`."""
        return matched_random(neurons, self.width, seed, self.loudness if self.kind == ACTIVATION else None)


def controls_for(atlas: Path, live: LiveModel, kind: str | None, tap: str, *, tell: list[str]) -> Controls:
    """Those that were asked for; by default of the same mean |activation|, where the atlas has that of these weights.

    tell: gets a word where it has not.

    Raises:
        UsageError: no such kind; or mean activations are asked for, and none are stored.
    """
    if kind is not None and kind not in KINDS:
        raise unknown("kind of controls", kind, KINDS, "atlas evaluate --help")
    if kind == LAYERS:
        return Controls(LAYERS, live.layout.width)
    with open_readonly(atlas) as connection:
        loudness = stored_loudness(connection, live.fingerprint, tap)
    if len(loudness) == len(live.layout.layers):
        return Controls(ACTIVATION, live.layout.width, loudness)
    lacking = (
        f"no mean activations of {live.name} are stored (tap {tap}); "
        f"`atlas ingest --model {live.name} --methods activation --tap {tap}` stores them"
    )
    if kind == ACTIVATION:
        raise UsageError(f"--controls activation: {lacking}")
    tell.append(f"random neurons are of the same layers alone, so louder or quieter than the edit's: {lacking}")
    return Controls(LAYERS, live.layout.width)
