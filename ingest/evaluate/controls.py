"""Which random neurons an edit is compared with: of the same layers, or also about as active."""

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
    """How random neurons are drawn. kind: from the same layers, or from the same layers with about the same mean
    |activation|. loudness: layer -> (width,) mean |activation|, for the second kind."""

    kind: str
    width: int
    loudness: Mapping[int, np.ndarray] = field(default_factory=dict)

    def draw(self, neurons: Sequence[Neuron], seed: int) -> list[Neuron]:
        """As many other neurons, ordered by layer; see `matched_random`."""
        return matched_random(neurons, self.width, seed, self.loudness if self.kind == ACTIVATION else None)


def controls_for(atlas: Path, live: LiveModel, kind: str | None, tap: str, *, notes: list[str]) -> Controls:
    """The controls of this kind; by default of the same mean |activation|, where the atlas has that for these weights.

    notes: a note is added where it does not.

    Raises:
        UsageError: no such kind; or mean activations are requested, and none are stored.
    """
    if kind is not None and kind not in KINDS:
        raise unknown("kind of controls", kind, KINDS, "atlas evaluate --help")
    if kind == LAYERS:
        return Controls(LAYERS, live.layout.width)
    with open_readonly(atlas) as connection:
        loudness = stored_loudness(connection, live.fingerprint, tap)
    if len(loudness) == len(live.layout.layers):
        return Controls(ACTIVATION, live.layout.width, loudness)
    hint = (
        f"no mean activations of {live.name} are stored (tap {tap}); "
        f"`atlas ingest --model {live.name} --methods activation --tap {tap}` stores them"
    )
    if kind == ACTIVATION:
        raise UsageError(f"[[controls=activation]]: {hint}")
    notes.append(f"random neurons are matched by layer only, and may be more or less active than the edit's: {hint}")
    return Controls(LAYERS, live.layout.width)
