"""Random neurons as a control for chosen ones: of the same layers, or also about equally loud."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from atlas.neurons import LANGUAGE, Neuron

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.floating]

NEAREST = 10
"""The number of neurons of about the same loudness from which one is drawn."""


def matched_random(
    neurons: Sequence[Neuron], width: int, seed: int, loudness: Mapping[int, Floats] | None = None
) -> list[Neuron]:
    """As many other neurons of each layer, drawn without replacement: the control for an edit.

    width: neurons per layer. loudness: layer -> (width,); each neuron is then replaced by one of the ten available ones
    whose rank in loudness is nearest in proportion. The neurons themselves are not drawn, unless they are more than
    half of a layer: then all the others are taken, and as few of themselves as necessary. For a whole layer that is the
    layer.
    """
    import numpy as np

    generator = np.random.default_rng(seed)
    drawn: list[Neuron] = []
    for (component, layer), count in sorted(Counter((n.component, n.layer) for n in neurons).items()):
        excluded = {n.index for n in neurons if (n.component, n.layer) == (component, layer)}
        others = [i for i in range(width) if i not in excluded]
        if len(others) >= count and loudness is not None and component == LANGUAGE:
            chosen = _equally_loud(sorted(excluded), others, loudness[layer], generator)
        elif len(others) >= count:
            chosen = generator.choice(others, size=count, replace=False)
        else:
            repeated = generator.choice(sorted(excluded), size=count - len(others), replace=False)
            chosen = np.concatenate([np.array(others, dtype=np.int64), repeated])
        drawn += [Neuron(component, layer, int(i)) for i in np.sort(chosen)]
    return drawn


def _equally_loud(
    excluded: Sequence[int], others: Sequence[int], loud: Floats, generator: np.random.Generator
) -> Floats:
    """A replacement for each of the neurons `excluded`, from `others` of the layer."""
    import numpy as np

    rank = np.empty(len(loud))
    rank[np.argsort(-loud, kind="stable")] = np.log(np.arange(1, len(loud) + 1))
    available = np.array(others)
    chosen = []
    for neuron in generator.permutation(np.array(excluded)):
        distance = np.abs(rank[available] - rank[neuron])
        count = min(NEAREST, len(available))
        within = np.flatnonzero(
            distance <= np.partition(distance, count - 1)[count - 1]
        )  # a whole sort takes ten times as long
        near = within[np.argsort(distance[within], kind="stable")[:count]]
        at = int(generator.choice(near))
        chosen.append(available[at])
        available = np.delete(available, at)
    return np.array(chosen)
