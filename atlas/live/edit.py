"""A stored edit on a live model, for as long as a block lasts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from atlas.edits import Change, Edit
from atlas.errors import UsageError
from atlas.live.fingerprint import fingerprint
from atlas.live.hooks import Rule, affine, editing
from atlas.live.layout import PRODUCT, locate
from atlas.live.model import LiveModel
from atlas.neurons import LANGUAGE


def rules(changes: Sequence[Change]) -> dict[int, Rule]:
    """One vectorised rule a layer.

    Raises:
        UsageError: a neuron is changed twice, or is not one of the language model's.
    """
    by_layer: dict[int, list[Change]] = {}
    for change in changes:
        if change.neuron.component != LANGUAGE:
            raise UsageError(f"cannot edit neuron {change.neuron}: only the language model's neurons can be edited")
        by_layer.setdefault(change.neuron.layer, []).append(change)
    found = {}
    for layer, mine in by_layer.items():
        index = torch.tensor([c.neuron.index for c in mine])
        if len({c.neuron for c in mine}) != len(mine):
            raise UsageError(f"the edit changes a neuron of layer {layer} twice")
        gain, bias = torch.tensor([c.gain for c in mine]), torch.tensor([c.bias for c in mine])
        found[layer] = affine(index, gain, bias)
    return found


@contextmanager
def changing(model: LiveModel | Any, changes: Sequence[Change], *, tap: str = PRODUCT) -> Iterator[None]:
    """Apply changes to a model (a `LiveModel` or a HuggingFace model) while the block lasts.

    Afterwards, also after an exception, the model is bit for bit what it was: no weight is touched.

    Raises:
        UsageError: a neuron the model does not have.
    """
    layout = model.layout if isinstance(model, LiveModel) else locate(model)
    for change in changes:
        if change.neuron.index >= layout.width:
            raise UsageError(f"no neuron {change.neuron}; this model has neurons 0-{layout.width - 1} in each layer")
    with editing(layout, rules(changes), tap=tap):
        yield


@contextmanager
def applied(edit: Edit, model: LiveModel | Any) -> Iterator[None]:
    """Apply a stored edit while the block lasts.

    Raises:
        UsageError: the model's weights are not those the edit was made for.
    """
    found = fingerprint(model.model if isinstance(model, LiveModel) else model)
    if found != edit.fingerprint:
        raise UsageError(
            f"edit {edit.label} was made for {edit.model['name']} (weights {edit.fingerprint[:12]}), "
            f"not for these weights ({found[:12]}); load that model, or create the edit for this one"
        )
    with changing(model, edit.changes, tap=edit.tap):
        yield
