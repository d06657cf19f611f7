"""Sets of neurons: what a query returns, set algebra over them, a random control, their distribution over layers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

import pyarrow as pa

from atlas.errors import UsageError
from atlas.neurons import LANGUAGE, Neuron
from atlas.query.answer import Answer
from atlas.query.given import shown
from atlas.query.provenance import Provenance, defaults_of

LAYERS = pa.schema(
    [("component", pa.string()), ("layer", pa.int32()), ("count", pa.int64())]
    + [(name, pa.float64()) for name in ("share", "cumulative", "enrichment")]
)


class NeuronSet(Answer):
    """An answer whose rows are neurons of one model, in order, with the columns of the question that found them.

    Sets combine with `&`, `-` and `|`; the provenance keeps that of both sides.
    """

    @property
    def defaults(self) -> tuple[str, ...]:
        """What was left open and filled in for the set, or for the sets that it was made from."""
        return defaults_of(self.provenance)

    def __iter__(self) -> Iterator[Neuron]:
        return iter(self.neurons)

    def __contains__(self, neuron: object) -> bool:
        """Whether a neuron, or its address (`"3/265"`), is in the set."""
        return (Neuron.parse(neuron) if isinstance(neuron, str) else neuron) in self.neurons

    def _row(self, index: int) -> Neuron:
        return self.neurons[index]

    def __repr__(self) -> str:
        shown = ", ".join(str(n) for n in self.neurons[:4])
        return f"NeuronSet({len(self)} neurons: {shown}{', ...' if len(self) > 4 else ''})"

    def __and__(self, other: NeuronSet) -> NeuronSet:
        """The neurons in both sets, in the order and with the columns of this one."""
        if not isinstance(other, NeuronSet):
            return NotImplemented
        return self._keep("and", other, lambda n, other_neurons: n in other_neurons)

    def __sub__(self, other: NeuronSet) -> NeuronSet:
        """The neurons of this set that are not in the other."""
        if not isinstance(other, NeuronSet):
            return NotImplemented
        return self._keep("minus", other, lambda n, other_neurons: n not in other_neurons)

    def __or__(self, other: NeuronSet) -> NeuronSet:
        """The neurons of this set, then those that only the other has; with the columns of both."""
        if not isinstance(other, NeuronSet):
            return NotImplemented
        extra = other - self
        common = [name for name in self.table.column_names if name in extra.table.column_names]
        rows = pa.concat_tables([self.table.select(common), extra.table.select(common)], promote_options="permissive")
        return NeuronSet(rows, self._together("or", other))

    def _keep(self, word: str, other: NeuronSet, test: Callable[[Neuron, frozenset[Neuron]], bool]) -> NeuronSet:
        other_neurons = frozenset(other.neurons)
        mask = [test(n, other_neurons) for n in self.neurons]
        return NeuronSet(self.table.filter(pa.array(mask, pa.bool_())), self._together(word, other))

    def _together(self, word: str, other: NeuronSet) -> Provenance:
        fingerprint, other_fingerprint = self.provenance.get("fingerprint"), other.provenance.get("fingerprint")
        if fingerprint != other_fingerprint or fingerprint is None:
            raise UsageError("these sets have neurons of two models; choose one with [[model]]")
        return {"fingerprint": fingerprint, "set": word, "left": self.provenance, "right": other.provenance}


def require_neurons(value: object, name: str = "neurons") -> None:
    """Refuse what is not a set of neurons, such as a list of them: a set knows its model and where it came from.

    Raises:
        UsageError: it is not one. name: of the field that it was given as.
    """
    if not isinstance(value, NeuronSet):
        raise UsageError(f"[[{name}]] is a set of neurons, such as `query` or `selection` returns, not {shown(value)}")


def neuron_set(neurons: Sequence[Neuron], provenance: Provenance) -> NeuronSet:
    """A set of neurons with their addresses as the only columns."""
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
    excluded = frozenset(neurons.neurons)
    addresses = [(y, i) for y in range(layers) for i in range(width) if Neuron(LANGUAGE, y, i) not in excluded]
    columns = {
        "component": pa.array([LANGUAGE] * len(addresses), pa.string()),
        "layer": pa.array([y for y, _ in addresses], pa.int16()),
        "neuron": pa.array([i for _, i in addresses], pa.int32()),
    }
    origin: Provenance = {
        "fingerprint": neurons.provenance["fingerprint"],
        "set": "complement",
        "of": neurons.provenance,
    }
    return NeuronSet(pa.table(columns), origin)


def layer_distribution(neurons: Iterable[Neuron], layers: int) -> pa.Table:
    """How neurons are distributed over the layers of their model, one row a layer, empty layers included.

    layers: of the language model; another component has rows up to its last neuron's layer. count: neurons of the
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
