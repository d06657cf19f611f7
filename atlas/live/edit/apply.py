"""A stored edit on a live model, for as long as a block lasts."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from atlas.edits.edit import Change, Edit, Intervention
from atlas.edits.positions import EVERYWHERE, Positions
from atlas.errors import AtlasWarning, UsageError
from atlas.live.affine import Rule, affinely
from atlas.live.compiled import require_plain
from atlas.live.encode import TokenRoles
from atlas.live.hooks import Write, editing, watching, writing
from atlas.live.layout import Layout, innermost_decoder, locate
from atlas.live.load.fingerprint import fingerprint
from atlas.live.model import LiveModel
from atlas.live.token_positions import PassPositions
from atlas.neurons import LANGUAGE, no_such_neuron

Group = tuple[Positions, list[Change]]
"""Changes of one layer that act at the same positions; the groups of a layer act one after another."""


def grouped(changes: Sequence[Change]) -> dict[int, list[Group]]:
    """Layer -> its changes by where they act.

    Raises:
        UsageError: a neuron is changed twice at the same positions, or is not one of the language model's.
    """
    by_layer: dict[int, dict[Positions, list[Change]]] = {}
    for change in changes:
        if change.neuron.component != LANGUAGE:
            raise UsageError(f"cannot edit neuron {change.neuron}: only the language model's neurons can be edited")
        by_layer.setdefault(change.neuron.layer, {}).setdefault(change.where, []).append(change)
    for layer, groups in by_layer.items():
        for where, group in groups.items():
            if len({c.neuron for c in group}) != len(group):
                raise UsageError(f"the edit changes a neuron of layer {layer} twice where {where}")
    return {layer: list(groups.items()) for layer, groups in sorted(by_layer.items())}


def rules(changes: Sequence[Change], places: PassPositions, seed: int = 0) -> dict[int, Rule]:
    """One vectorised rule for each layer whose values change; other layers are left out."""
    by_layer = {}
    for layer, groups in grouped(changes).items():
        value_groups = [
            (where, changing)
            for where, group_changes in groups
            if (changing := [c for c in group_changes if _changes_value(c)])
        ]
        if value_groups:
            by_layer[layer] = _in_turn(
                [_group_rule(where, group, places, seed, layer) for where, group in value_groups]
            )
    return by_layer


def _changes_value(change: Change) -> bool:
    return (change.gain, change.bias, change.noise) != (1.0, 0.0, 0.0)


def _in_turn(steps: Sequence[Rule]) -> Rule:
    def rule(values: Tensor) -> Tensor:
        for step in steps:
            values = step(values)
        return values

    return rule


def _group_rule(where: Positions, changes: Sequence[Change], places: PassPositions, seed: int, layer: int) -> Rule:
    index = torch.tensor([c.neuron.index for c in changes])
    coefficients = torch.tensor([(c.gain, c.bias) for c in changes], dtype=torch.float64)
    gain, bias = coefficients.unbind(1)
    noise = Noise(changes, seed, layer) if any(c.noise for c in changes) else None
    by_device: dict[torch.device, tuple[Tensor, Tensor, Tensor]] = {}  # every token of an answer is a pass of its own

    def rule(values: Tensor) -> Tensor:
        if values.device not in by_device:
            by_device[values.device] = (index.to(values.device), gain.to(values.device), bias.to(values.device))
        at, *gain_and_bias = by_device[values.device]
        chosen = values.index_select(-1, at)
        changed = affinely(chosen, *gain_and_bias)
        if noise is not None:
            changed = changed + noise.at(places, chosen)
        if where != EVERYWHERE:
            changed = torch.where(places.at(where, values)[..., None], changed, chosen)
        return values.index_copy(-1, at, changed)

    return rule


class Noise:
    """Gaussian noise that depends only on seed, layer, neuron and place in the row: the same with and without the KV
    cache, in any batch, whichever other neurons change, and at every call."""

    def __init__(self, changes: Sequence[Change], seed: int, layer: int):
        self.sigma = np.array([c.noise for c in changes])
        self.neurons = np.array([c.neuron.index for c in changes])
        self.seed, self.layer = seed, layer
        self._drawn: dict[int, Tensor] = {}

    def at(self, places: PassPositions, like: Tensor) -> Tensor:
        """Noise of the running pass's positions, in the shape of `like`, (..., neurons)."""
        places.at(EVERYWHERE, like)  # refuses a pass that was not seen
        assert places.numbers is not None
        numbers, place_of = torch.unique(places.numbers.clamp(min=0).cpu(), return_inverse=True)
        rows = torch.stack([self._row(n) for n in numbers.tolist()])
        return rows[place_of].to(like).reshape(like.shape)

    def _row(self, place: int) -> Tensor:
        if place not in self._drawn:
            # Drawn for all neurons up to the last, so that a neuron's noise does not depend on the others.
            standard = np.random.default_rng([self.seed, self.layer, place]).standard_normal(self.neurons.max() + 1)
            self._drawn[place] = torch.from_numpy((standard[self.neurons] * self.sigma).astype(np.float32))
        return self._drawn[place]


def writes(intervention: Intervention, places: PassPositions) -> dict[int, list[Write]]:
    """Layer -> what is added to its write vectors."""
    by_layer: dict[int, list[Write]] = {}
    for layer, groups in grouped(intervention.changes).items():
        for where, group in groups:
            rows = [(c, d) for c in group if (d := intervention.delta(c)) is not None]
            if rows:
                index = torch.tensor([c.neuron.index for c, _ in rows])
                deltas = torch.from_numpy(np.stack([d for _, d in rows]))
                by_layer.setdefault(layer, []).append((index, deltas, _masked(where, places)))
    return by_layer


def _masked(where: Positions, places: PassPositions) -> Callable[[Tensor], Tensor | None]:
    if where == EVERYWHERE:
        return lambda values: None
    return lambda values: places.at(where, values)


def module_of(model: LiveModel | Any) -> Any:
    """The HuggingFace model in a `LiveModel` or a `transformers.pipeline`, or the model itself.

    Raises:
        UsageError: it is not a model, or it is compiled.
    """
    # A HuggingFace model has an attribute `model` too, which is only a part of it.
    module = model if isinstance(model, torch.nn.Module) else getattr(model, "model", None)
    if module is None:
        raise UsageError(
            f"a {type(model).__name__} is not a model; give a HuggingFace model, a pipeline or a LiveModel"
        )
    require_plain(module)
    return module


def _roles(model: LiveModel | Any, processor: Any) -> TokenRoles:
    if isinstance(model, LiveModel):
        return model.encoder.role_of
    reader = processor or getattr(model, "processor", None) or getattr(model, "tokenizer", None)
    tokenizer = getattr(reader, "tokenizer", reader)
    return TokenRoles(module_of(model).config, None if tokenizer is None else tokenizer.all_special_ids)


def check_fits(intervention: Intervention, layout: Layout) -> None:
    """Raise UsageError where a model lacks the neurons, or has another width than the deltas."""
    layer_count = len(layout.layers)
    for neuron in intervention.neurons:
        if neuron.index >= layout.width or neuron.layer >= layer_count:
            raise no_such_neuron(neuron, "this model", layer_count, layout.width)
    deltas = intervention.deltas
    if deltas is not None and deltas.shape[1] != layout.d_model:
        raise UsageError(f"the edit's deltas have {deltas.shape[1]} numbers, this model's residual {layout.d_model}")


@contextmanager
def changing(model: LiveModel | Any, intervention: Intervention, *, processor: Any = None) -> Iterator[None]:
    """Apply an intervention to a model (a `LiveModel`, a HuggingFace model or a pipeline) while the block lasts.

    processor: tells text from special tokens; needed for edits of these on a bare HuggingFace model.
    Afterwards, also after an exception, the model is unchanged bit for bit: no weight is touched.

    Raises:
        UsageError: a neuron the model does not have, or deltas of another width.
    """
    module = module_of(model)
    layout = model.layout if isinstance(model, LiveModel) else locate(module)
    check_fits(intervention, layout)
    places = PassPositions(_roles(model, processor))
    with ExitStack() as stack:
        if any(c.where != EVERYWHERE or c.noise for c in intervention.changes):
            stack.enter_context(watching(module, places.look))
            stack.enter_context(watching(innermost_decoder(module), places.look_inside, places.leave))
        stack.enter_context(
            editing(layout, rules(intervention.changes, places, intervention.seed), tap=intervention.tap)
        )
        stack.enter_context(writing(layout, writes(intervention, places)))
        yield


def require_own(edit: Edit, model: LiveModel | Any) -> None:
    """Raise UsageError where a model's weights are not those that an edit was made for."""
    weights = fingerprint(module_of(model))
    if weights != edit.fingerprint:
        raise UsageError(
            f"edit {edit.label} was made for {edit.model['name']} (weights {edit.fingerprint[:12]}), "
            f"not for these weights ({weights[:12]}); load that model, in the precision that it was ingested in "
            "([[quantization]], [[dtype]]), or create the edit for this one"
        )


@contextmanager
def applied(edit: Edit, model: LiveModel | Any, *, processor: Any = None, any_weights: bool = False) -> Iterator[None]:
    """Apply a stored edit while the block lasts. Warns of neurons that an attached edit already changes.

    any_weights: accept other weights of the same shape, a quantised copy for example.

    Raises:
        UsageError: the model's weights are not those the edit was made for.
    """
    if not any_weights:
        require_own(edit, model)
    with changing(model, edit.intervention, processor=processor):
        _warn_of_overlap(edit, model)
        yield


def _warn_of_overlap(edit: Edit, model: LiveModel | Any) -> None:
    for earlier in attached(model):
        both = sorted(set(edit.neurons) & set(earlier.edit.neurons), key=str)
        if both:
            shown = ", ".join(map(str, both[:3])) + (", ..." if len(both) > 3 else "")
            warnings.warn(
                f"edit {edit.label} changes {len(both)} neurons ({shown}) that {earlier.edit.label}, which is "
                "attached to this model, changes first: `.remove()` that edit, or join both with `atlas edit compose`",
                AtlasWarning,
                stacklevel=2,
            )


class Attached:
    """An edit on a model until it is removed: for notebooks, where no block spans several cells.

    The model keeps the handle: `attached(model)` gives it back. Leaving a `with` block of the handle removes the edit
    too.
    """

    def __init__(self, edit: Edit, model: LiveModel | Any, *, processor: Any = None, any_weights: bool = False):
        self.edit = edit
        self._stack = ExitStack()
        self._stack.enter_context(applied(edit, model, processor=processor, any_weights=any_weights))
        self._all = _edits_of(model)
        self._all.append(self)

    def __repr__(self) -> str:
        return f"<{self.edit.label}: {len(self.edit.neurons)} neurons>"

    def remove(self) -> None:
        """Remove the edit; a second call does nothing."""
        self._all[:] = [handle for handle in self._all if handle is not self]
        self._stack.close()

    def __enter__(self) -> Attached:
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()


class _AttachedEdits(list[Attached]):
    """The edits attached to a model, kept by the model itself."""

    def __deepcopy__(self, memo: object) -> _AttachedEdits:
        self._refuse()
        return _AttachedEdits()

    def __reduce__(self) -> tuple[type[_AttachedEdits], tuple[()]]:
        self._refuse()
        return _AttachedEdits, ()

    def _refuse(self) -> None:
        if self:  # the copy would have the hooks, and nothing could remove them
            raise UsageError(f"this model has {self[0].edit.label} attached; `.remove()` it, then copy the model")


def _edits_of(model: LiveModel | Any) -> _AttachedEdits:
    edits: _AttachedEdits = module_of(model).__dict__.setdefault("_atlas_attached", _AttachedEdits())
    return edits


def attached(model: LiveModel | Any) -> tuple[Attached, ...]:
    """The edits that are attached to a model (`StoredEdit.attach`), in the order in which they act."""
    return tuple(_edits_of(model))
