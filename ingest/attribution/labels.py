"""Labels: names for what neurons respond to, given by a stated rule."""

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
    """One label and the neurons that have it. rule: the rule with its parameters. layers, neurons, scores: (neurons,),
    with the rule's own score, larger for clearer cases."""

    label: str
    rule: str
    layers: np.ndarray
    neurons: np.ndarray
    scores: np.ndarray


@runtime_checkable
class Labelling(Protocol):
    """A method that also labels neurons."""

    def labels(self) -> Iterable[LabelledNeurons]:
        """The labels, each with its neurons."""
        ...


def chosen(label: str, rule: str, layers: tuple[int, ...], mask: np.ndarray, scores: np.ndarray) -> LabelledNeurons:
    """The label for the neurons of a (layer, neuron) mask. scores: (layer, neuron)."""
    row, neuron = np.nonzero(mask)
    return LabelledNeurons(label, rule, np.asarray(layers)[row], neuron, scores[row, neuron])


def labels_table(run_id: str, labelled: Iterable[LabelledNeurons]) -> pa.Table:
    """The rows of `labels`, sorted by rule and neuron."""
    parts = [
        pa.table(
            {
                "run_id": [run_id] * len(group.neurons),
                "component": [LANGUAGE] * len(group.neurons),
                "layer": group.layers.astype(np.int16),
                "neuron": group.neurons.astype(np.int32),
                "label": [group.label] * len(group.neurons),
                "rule": [group.rule] * len(group.neurons),
                "score": group.scores.astype(np.float32),
            },
            schema=arrow_schema(labels),
        )
        for group in labelled
    ]
    order = [(name, "ascending") for name in ("rule", "layer", "neuron", "label")]
    return pa.concat_tables([arrow_schema(labels).empty_table(), *parts]).sort_by(order)
