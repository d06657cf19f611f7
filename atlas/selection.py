"""Sets of neurons: what a query returns, set algebra on it, and the matched control every claim needs."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from atlas.errors import Unsupported, UsageError
from atlas.neurons import Neuron

if TYPE_CHECKING:
    import pandas as pd


class NeuronSet:
    """Neurons of one model in an order, each with the columns of the question that found it.

    provenance: what was asked and of which runs; set algebra keeps both sides'.
    """

    def __init__(self, rows: pa.Table, provenance: Mapping[str, Any]):
        self._rows = rows
        self.provenance = dict(provenance)
        columns = (rows[name].to_pylist() for name in ("component", "layer", "neuron"))
        self.neurons = tuple(Neuron(*address) for address in zip(*columns, strict=True))

    def __iter__(self) -> Iterator[Neuron]:
        return iter(self.neurons)

    def __len__(self) -> int:
        return len(self.neurons)

    def __contains__(self, neuron: object) -> bool:
        return neuron in self.neurons

    def __repr__(self) -> str:
        shown = ", ".join(str(n) for n in self.neurons[:4])
        return f"NeuronSet({len(self)} neurons: {shown}{', ...' if len(self) > 4 else ''})"

    def __and__(self, other: NeuronSet) -> NeuronSet:
        """The neurons in both, in this one's order and with its columns."""
        return self._keep("and", other, lambda n, theirs: n in theirs)

    def __sub__(self, other: NeuronSet) -> NeuronSet:
        """The neurons of this one that the other does not have."""
        return self._keep("minus", other, lambda n, theirs: n not in theirs)

    def __or__(self, other: NeuronSet) -> NeuronSet:
        """This one's neurons, then those that only the other has; columns that both have."""
        extra = other - self
        common = [name for name in self._rows.column_names if name in extra._rows.column_names]
        rows = pa.concat_tables([self._rows.select(common), extra._rows.select(common)], promote_options="permissive")
        return NeuronSet(rows, self._together("or", other))

    def _keep(self, word: str, other: NeuronSet, test: Callable[[Neuron, frozenset[Neuron]], bool]) -> NeuronSet:
        theirs = frozenset(other.neurons)
        mask = [test(n, theirs) for n in self.neurons]
        return NeuronSet(self._rows.filter(pa.array(mask, pa.bool_())), self._together(word, other))

    def _together(self, word: str, other: NeuronSet) -> dict[str, Any]:
        mine, theirs = self.provenance.get("fingerprint"), other.provenance.get("fingerprint")
        if mine != theirs:
            raise UsageError("these neurons belong to two models; choose one with model=...")
        return {"fingerprint": mine, "set": word, "left": self.provenance, "right": other.provenance}

    def to_arrow(self) -> pa.Table:
        """component, layer, neuron and the question's own columns."""
        return self._rows

    def to_pandas(self) -> pd.DataFrame:
        """The same as a pandas frame.

        Raises:
            Unsupported: pandas is not installed.
        """
        if importlib.util.find_spec("pandas") is None:
            raise Unsupported("to_pandas needs pandas (pip install pandas); to_arrow does not")
        return self._rows.to_pandas()


def matched_random(neurons: Sequence[Neuron], width: int, seed: int) -> list[Neuron]:
    """As many other neurons of each layer, drawn without replacement: the control beside an edit.

    width: neurons a layer. The neurons themselves are left out of the draw.

    Raises:
        UsageError: a layer has too few other neurons to draw from.
    """
    generator = np.random.default_rng(seed)
    drawn: list[Neuron] = []
    for (component, layer), count in sorted(Counter((n.component, n.layer) for n in neurons).items()):
        taken = {n.index for n in neurons if (n.component, n.layer) == (component, layer)}
        others = [i for i in range(width) if i not in taken]
        if len(others) < count:
            raise UsageError(f"layer {layer} has {len(others)} other neurons, too few for a control of {count}")
        chosen = generator.choice(others, size=count, replace=False)
        drawn += [Neuron(component, layer, int(i)) for i in np.sort(chosen)]
    return drawn


def overlap_statistics(sizes: Sequence[int], shared: int, total: int) -> dict[str, float]:
    """How surprising it is that two sets of neurons, drawn from `total`, share `shared`.

    expected: by chance, the product of the sizes over the total. lift: shared / expected. p_value: of at least
    so many shared, hypergeometric. The null draws uniformly over all neurons; sets that prefer the same layers
    overlap more than it says even without a common concept.
    """
    from scipy.stats import hypergeom

    first, second = sizes
    expected = first * second / total
    return {
        "expected": expected,
        "lift": shared / expected if expected else float("nan"),
        "p_value": float(hypergeom.sf(shared - 1, total, first, second)),
    }
