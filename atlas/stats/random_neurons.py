"""Random neurons that stand beside chosen ones as a control: of the same layers, or also about as loud."""

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
"""Of how many neurons of about the same loudness one is drawn."""


def matched_random(
    neurons: Sequence[Neuron], width: int, seed: int, loudness: Mapping[int, Floats] | None = None
) -> list[Neuron]:
    """As many other neurons of each layer, drawn without replacement: the control beside an edit.

    width: neurons a layer. loudness: layer -> (width,); each neuron's stand-in is then one of the ten that are left
    whose rank in loudness is nearest in proportion. The neurons themselves are left out of the draw, but where they are
    more than half of a layer: then all the others are taken, and as few of themselves as must be. Of a whole layer that
    is the layer.
    """
    import numpy as np

    generator = np.random.default_rng(seed)
    drawn: list[Neuron] = []
    for (component, layer), count in sorted(Counter((n.component, n.layer) for n in neurons).items()):
        taken = {n.index for n in neurons if (n.component, n.layer) == (component, layer)}
        others = [i for i in range(width) if i not in taken]
        if len(others) >= count and loudness is not None and component == LANGUAGE:
            chosen = _as_loud(sorted(taken), others, loudness[layer], generator)
        elif len(others) >= count:
            chosen = generator.choice(others, size=count, replace=False)
        else:
            again = generator.choice(sorted(taken), size=count - len(others), replace=False)
            chosen = np.concatenate([np.array(others, dtype=np.int64), again])
        drawn += [Neuron(component, layer, int(i)) for i in np.sort(chosen)]
    return drawn


def _as_loud(taken: Sequence[int], others: Sequence[int], loud: Floats, generator: np.random.Generator) -> Floats:
    """A stand-in for each of the neurons `taken`, from `others` of the layer."""
    import numpy as np

    rank = np.empty(len(loud))
    rank[np.argsort(-loud, kind="stable")] = np.log(np.arange(1, len(loud) + 1))
    left = np.array(others)
    chosen = []
    for neuron in generator.permutation(np.array(taken)):
        apart = np.abs(rank[left] - rank[neuron])
        count = min(NEAREST, len(left))
        within = np.flatnonzero(
            apart <= np.partition(apart, count - 1)[count - 1]
        )  # a whole sort takes ten times as long
        near = within[np.argsort(apart[within], kind="stable")[:count]]
        at = int(generator.choice(near))
        chosen.append(left[at])
        left = np.delete(left, at)
    return np.array(chosen)
