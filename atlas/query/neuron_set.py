"""Sets of neurons: what a query returns, set algebra over them, a random control, their distribution over layers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from atlas.errors import UsageError
from atlas.neurons import LANGUAGE, Neuron
from atlas.query.answer import Answer

LAYERS = pa.schema(
    [("component", pa.string()), ("layer", pa.int32()), ("count", pa.int64())]
    + [(name, pa.float64()) for name in ("share", "cumulative", "enrichment")]
)


class NeuronSet(Answer):
    """An answer whose rows are neurons of one model, in an order, each with the columns of the question that found it.

    Sets combine: `&`, `-` and `|`; provenance keeps both sides'.
    """

    @property
    def defaults(self) -> tuple[str, ...]:
        """What was left open and filled in for the set, or for those that it is made of."""
        return tuple(dict.fromkeys(_defaults(self.provenance)))

    def __iter__(self) -> Iterator[Neuron]:
        return iter(self.neurons)

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
        common = [name for name in self.table.column_names if name in extra.table.column_names]
        rows = pa.concat_tables([self.table.select(common), extra.table.select(common)], promote_options="permissive")
        return NeuronSet(rows, self._together("or", other))

    def _keep(self, word: str, other: NeuronSet, test: Callable[[Neuron, frozenset[Neuron]], bool]) -> NeuronSet:
        theirs = frozenset(other.neurons)
        mask = [test(n, theirs) for n in self.neurons]
        return NeuronSet(self.table.filter(pa.array(mask, pa.bool_())), self._together(word, other))

    def _together(self, word: str, other: NeuronSet) -> dict[str, Any]:
        mine, theirs = self.provenance.get("fingerprint"), other.provenance.get("fingerprint")
        if mine != theirs or mine is None:
            raise UsageError("these neurons belong to two models; choose one with model=...")
        return {"fingerprint": mine, "set": word, "left": self.provenance, "right": other.provenance}


def _defaults(provenance: Mapping[str, Any]) -> Iterator[str]:
    yield from provenance.get("assumed", ())
    for part in ("left", "right", "of"):
        if isinstance(provenance.get(part), Mapping):
            yield from _defaults(provenance[part])


def neuron_set(neurons: Sequence[Neuron], provenance: Mapping[str, Any]) -> NeuronSet:
    """Neurons with no column but their address."""
    columns = {
        "component": pa.array([n.component for n in neurons], pa.string()),
        "layer": pa.array([n.layer for n in neurons], pa.int16()),
        "neuron": pa.array([n.index for n in neurons], pa.int32()),
    }
    return NeuronSet(pa.table(columns), provenance)


def everything_but(neurons: NeuronSet, layers: int, width: int) -> NeuronSet:
    """Every neuron of the language model that is not in the set: MINER's complementary mask (Huang et al. 2024).

    layers, width: of the model.
    """
    taken = frozenset(neurons.neurons)
    left = [(y, i) for y in range(layers) for i in range(width) if Neuron(LANGUAGE, y, i) not in taken]
    columns = {
        "component": pa.array([LANGUAGE] * len(left), pa.string()),
        "layer": pa.array([y for y, _ in left], pa.int16()),
        "neuron": pa.array([i for _, i in left], pa.int32()),
    }
    origin = {"fingerprint": neurons.provenance["fingerprint"], "set": "complement", "of": neurons.provenance}
    return NeuronSet(pa.table(columns), origin)


def layer_distribution(neurons: Iterable[Neuron], layers: int) -> pa.Table:
    """How neurons lie over the layers of their model, one row a layer, also where there is none.

    layers: of the language model; another component has as many rows as its last neuron needs. count: neurons of the
    layer. share: of all of them. cumulative: the share of this layer and those before. enrichment: share over 1 /
    layers, what neurons drawn evenly over the layers would give.
    """
    counts = Counter((n.component, n.layer) for n in neurons)
    rows = []
    for component in sorted({c for c, _ in counts}) or [LANGUAGE]:
        deep = max([layer + 1 for c, layer in counts if c == component] + [layers if component == LANGUAGE else 0])
        total = sum(count for (c, _), count in counts.items() if c == component)
        before = 0
        for layer in range(deep):
            count = counts[component, layer]
            before += count
            row = {"component": component, "layer": layer, "count": count}
            shares = {"share": count, "cumulative": before, "enrichment": count * deep}
            rows.append(row | {name: value / total if total else None for name, value in shares.items()})
    return pa.Table.from_pylist(rows, schema=LAYERS)
