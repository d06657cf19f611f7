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
    found: dict[int, dict[Positions, list[Change]]] = {}
    for change in changes:
        if change.neuron.component != LANGUAGE:
            raise UsageError(f"cannot edit neuron {change.neuron}: only the language model's neurons can be edited")
        found.setdefault(change.neuron.layer, {}).setdefault(change.where, []).append(change)
    for layer, groups in found.items():
        for where, mine in groups.items():
            if len({c.neuron for c in mine}) != len(mine):
                raise UsageError(f"the edit changes a neuron of layer {layer} twice where {where}")
    return {layer: list(groups.items()) for layer, groups in sorted(found.items())}


def rules(changes: Sequence[Change], places: PassPositions, seed: int = 0) -> dict[int, Rule]:
    """One vectorised rule a layer for what becomes of the values; layers without any are left out."""
    found = {}
    for layer, groups in grouped(changes).items():
        moved = [(w, m) for w, some in groups if (m := [c for c in some if _changes_value(c)])]
        if moved:
            found[layer] = _rule([_affine(w, mine, places, seed, layer) for w, mine in moved])
    return found


def _changes_value(change: Change) -> bool:
    return (change.gain, change.bias, change.noise) != (1.0, 0.0, 0.0)


def _rule(steps: Sequence[Rule]) -> Rule:
    def rule(values: Tensor) -> Tensor:
        for step in steps:
            values = step(values)
        return values

    return rule


def _affine(where: Positions, mine: Sequence[Change], places: PassPositions, seed: int, layer: int) -> Rule:
    index = torch.tensor([c.neuron.index for c in mine])
    said = torch.tensor([(c.gain, c.bias) for c in mine], dtype=torch.float64)
    gain, bias = said.unbind(1)
    noise = Noise(mine, seed, layer) if any(c.noise for c in mine) else None
    moved: dict[torch.device, tuple[Tensor, Tensor, Tensor]] = {}  # every token of an answer is a pass of its own

    def rule(values: Tensor) -> Tensor:
        if values.device not in moved:
            moved[values.device] = (index.to(values.device), gain.to(values.device), bias.to(values.device))
        at, *line = moved[values.device]
        chosen = values.index_select(-1, at)
        changed = affinely(chosen, *line)
        if noise is not None:
            changed = changed + noise.at(places, chosen)
        if where != EVERYWHERE:
            changed = torch.where(places.at(where, values)[..., None], changed, chosen)
        return values.index_copy(-1, at, changed)

    return rule


class Noise:
    """Gaussian noise that depends on seed, layer, neuron and place in the row alone: the same with and without the KV
    cache, in any batch, whichever other neurons change, and every time."""

    def __init__(self, changes: Sequence[Change], seed: int, layer: int):
        self.sigma = np.array([c.noise for c in changes])
        self.neurons = np.array([c.neuron.index for c in changes])
        self.seed, self.layer = seed, layer
        self._drawn: dict[int, Tensor] = {}

    def at(self, places: PassPositions, like: Tensor) -> Tensor:
        """Noise of the running pass's positions, in the shape of `like`, (..., neurons)."""
        places.at(EVERYWHERE, like)  # refuses a pass that was not seen
        assert places.numbers is not None
        numbers, which = torch.unique(places.numbers.clamp(min=0).cpu(), return_inverse=True)
        rows = torch.stack([self._row(n) for n in numbers.tolist()])
        return rows[which].to(like).reshape(like.shape)

    def _row(self, place: int) -> Tensor:
        if place not in self._drawn:
            # All neurons up to the last are drawn, so that a neuron's noise does not depend on which others have some.
            every = np.random.default_rng([self.seed, self.layer, place]).standard_normal(self.neurons.max() + 1)
            self._drawn[place] = torch.from_numpy((every[self.neurons] * self.sigma).astype(np.float32))
        return self._drawn[place]


def writes(intervention: Intervention, places: PassPositions) -> dict[int, list[Write]]:
    """What is added to the write vectors of each layer."""
    found: dict[int, list[Write]] = {}
    for layer, groups in grouped(intervention.changes).items():
        for where, mine in groups:
            rows = [(c, d) for c in mine if (d := intervention.delta(c)) is not None]
            if rows:
                index = torch.tensor([c.neuron.index for c, _ in rows])
                deltas = torch.from_numpy(np.stack([d for _, d in rows]))
                found.setdefault(layer, []).append((index, deltas, _masked(where, places)))
    return found


def _masked(where: Positions, places: PassPositions) -> Callable[[Tensor], Tensor | None]:
    if where == EVERYWHERE:
        return lambda values: None
    return lambda values: places.at(where, values)


def module_of(model: LiveModel | Any) -> Any:
    """The HuggingFace model in a `LiveModel` or a `transformers.pipeline`, or the model itself.

    Raises:
        UsageError: there is none, or it is compiled.
    """
    # A HuggingFace model has an attribute `model` too, which is only a part of it.
    found = model if isinstance(model, torch.nn.Module) else getattr(model, "model", None)
    if found is None:
        raise UsageError(
            f"a {type(model).__name__} is not a model; give a HuggingFace model, a pipeline or a LiveModel"
        )
    require_plain(found)
    return found


def _roles(model: LiveModel | Any, processor: Any) -> TokenRoles:
    if isinstance(model, LiveModel):
        return model.encoder.role_of
    found = processor or getattr(model, "processor", None) or getattr(model, "tokenizer", None)
    tokenizer = getattr(found, "tokenizer", found)
    return TokenRoles(module_of(model).config, None if tokenizer is None else tokenizer.all_special_ids)


def check_fits(intervention: Intervention, layout: Layout) -> None:
    """Raise UsageError where a model does not have the neurons, or the width of the deltas."""
    deep = len(layout.layers)
    for neuron in intervention.neurons:
        if neuron.index >= layout.width or neuron.layer >= deep:
            raise no_such_neuron(neuron, "this model", deep, layout.width)
    deltas = intervention.deltas
    if deltas is not None and deltas.shape[1] != layout.d_model:
        raise UsageError(f"the edit's deltas have {deltas.shape[1]} numbers, this model's residual {layout.d_model}")


@contextmanager
def changing(model: LiveModel | Any, intervention: Intervention, *, processor: Any = None) -> Iterator[None]:
    """Apply an intervention to a model (a `LiveModel`, a HuggingFace model or a pipeline) while the block lasts.

    processor: what tells text from special tokens, for edits that are about these, where the model is a bare one.
    Afterwards, also after an exception, the model is bit for bit what it was: no weight is touched.

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
    found = fingerprint(module_of(model))
    if found != edit.fingerprint:
        raise UsageError(
            f"edit {edit.label} was made for {edit.model['name']} (weights {edit.fingerprint[:12]}), "
            f"not for these weights ({found[:12]}); load that model, in the precision that it was ingested in "
            "(--quantization, --dtype), or create the edit for this one"
        )


@contextmanager
def applied(edit: Edit, model: LiveModel | Any, *, processor: Any = None, any_weights: bool = False) -> Iterator[None]:
    """Apply a stored edit while the block lasts. Warns of neurons that an attached edit changes already.

    any_weights: also to other weights of the same shape, a quantised copy for example.

    Raises:
        UsageError: the model's weights are not those the edit was made for.
    """
    if not any_weights:
        require_own(edit, model)
    with changing(model, edit.intervention, processor=processor):
        _warn_of_overlap(edit, model)
        yield


def _warn_of_overlap(edit: Edit, model: LiveModel | Any) -> None:
    for other in attached(model):
        both = sorted(set(edit.neurons) & set(other.edit.neurons), key=str)
        if both:
            shown = ", ".join(map(str, both[:3])) + (", ..." if len(both) > 3 else "")
            warnings.warn(
                f"edit {edit.label} changes {len(both)} neurons ({shown}) that {other.edit.label} changes before it, "
                "which is attached to this model: `.remove()` that one, or `atlas edit compose` makes one of both",
                AtlasWarning,
                stacklevel=2,
            )


class Attached:
    """An edit on a model until it is taken off: for notebooks, where no block lasts over several cells.

    The model keeps it, also where nobody keeps this handle: `attached(model)` gives it back. Leaving a `with` block of
    the handle takes the edit off too.
    """

    def __init__(self, edit: Edit, model: LiveModel | Any, *, processor: Any = None, any_weights: bool = False):
        self.edit = edit
        self._stack = ExitStack()
        self._stack.enter_context(applied(edit, model, processor=processor, any_weights=any_weights))
        self._all = _kept_by(model)
        self._all.append(self)

    def __repr__(self) -> str:
        return f"<{self.edit.label}: {len(self.edit.neurons)} neurons>"

    def remove(self) -> None:
        """Take the edit off; a second time does nothing."""
        self._all[:] = [other for other in self._all if other is not self]
        self._stack.close()

    def __enter__(self) -> Attached:
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()


class _Kept(list[Attached]):
    """The edits attached to a model, kept by the model itself."""

    def __deepcopy__(self, memo: object) -> _Kept:
        self._refuse()
        return _Kept()

    def __reduce__(self) -> tuple[type[_Kept], tuple[()]]:
        self._refuse()
        return _Kept, ()

    def _refuse(self) -> None:
        if self:  # the copy would have the hooks, and nothing could take them off
            raise UsageError(f"this model has {self[0].edit.label} attached; `.remove()` it, then copy the model")


def _kept_by(model: LiveModel | Any) -> _Kept:
    found: _Kept = module_of(model).__dict__.setdefault("_atlas_attached", _Kept())
    return found


def attached(model: LiveModel | Any) -> tuple[Attached, ...]:
    """The edits that are attached to a model (`StoredEdit.attach`), in the order in which they act."""
    return tuple(_kept_by(model))
