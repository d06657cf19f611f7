"""Labels: neurons with a name for what they serve, by a stated rule."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import pyarrow as pa

from atlas.neurons import LANGUAGE
from atlas.store.arrow_types import arrow_schema
from atlas.store.schema import labels


@dataclass(frozen=True, slots=True)
class LabelledNeurons:
    """One label and the neurons that have it. rule: what decided it, with its parameters. layers, neurons, scores:
    (neurons,), the score being the rule's own, larger for clearer."""

    label: str
    rule: str
    layers: np.ndarray
    neurons: np.ndarray
    scores: np.ndarray


@runtime_checkable
class Labelling(Protocol):
    """A method that also labels neurons."""

    def labels(self) -> Iterable[LabelledNeurons]: ...


def chosen(label: str, rule: str, layers: tuple[int, ...], where: np.ndarray, scores: np.ndarray) -> LabelledNeurons:
    """The label for the neurons of a (layer, neuron) mask. scores: (layer, neuron)."""
    row, neuron = np.nonzero(where)
    return LabelledNeurons(label, rule, np.asarray(layers)[row], neuron, scores[row, neuron])


def labels_table(run_id: str, found: Iterable[LabelledNeurons]) -> pa.Table:
    parts = [
        pa.table(
            {
                "run_id": [run_id] * len(some.neurons),
                "component": [LANGUAGE] * len(some.neurons),
                "layer": some.layers.astype(np.int16),
                "neuron": some.neurons.astype(np.int32),
                "label": [some.label] * len(some.neurons),
                "rule": [some.rule] * len(some.neurons),
                "score": some.scores.astype(np.float32),
            },
            schema=arrow_schema(labels),
        )
        for some in found
    ]
    order = [(name, "ascending") for name in ("rule", "layer", "neuron", "label")]
    return pa.concat_tables([arrow_schema(labels).empty_table(), *parts]).sort_by(order)
