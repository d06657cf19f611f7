"""An edit as weights: the model itself becomes the edited one, for a plain checkpoint without hooks.

Changing a neuron to gain * x + bias, and its write vector w to w + d, is the same as gain * (w + d) in its column of
the down projection and bias * (w + d) more in that projection's bias.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from atlas.edits.edit import Change, Edit, Intervention
from atlas.edits.library import StoredEdit
from atlas.edits.positions import EVERYWHERE
from atlas.errors import Unsupported, UsageError
from atlas.live.edit.apply import check_fits, grouped, module_of, require_own
from atlas.live.layout import Layout, columns_of, locate
from atlas.live.load.checkpoints import DTYPES
from atlas.live.model import LiveModel
from atlas.neurons import GATE

HOOKS = "apply it with hooks instead: `atlas edit apply`, or `with edit.on(model):`"


@dataclass(frozen=True, slots=True)
class OriginalColumns:
    """The original numbers of one layer's down projection: columns, (d_model, k), at index, (k,) int64; its bias,
    (d_model,), where it has one that changes."""

    index: Tensor
    columns: Tensor
    bias: Tensor | None


class Baked:
    """A model whose weights an edit has changed.

    kept: layer -> its original numbers. neurons: how many were changed. numbers: how many numbers of the weights
    changed. switched: whether the config's `mlp_bias` had to be switched on; the last three stay when it is restored.
    """

    def __init__(self, module: Any, layout: Layout, kept: Mapping[int, OriginalColumns], *, switched: bool):
        self._module, self._layout = module, layout
        self.kept, self.switched = dict(kept), switched
        self.neurons = sum(len(was.index) for was in kept.values())
        self.numbers = 0

    def restore(self) -> None:
        """Put the original columns and biases back, bit for bit; a second time does nothing."""
        with torch.no_grad():
            for layer, kept in self.kept.items():
                down: Any = self._layout.down[layer]
                columns_of(down)[:, kept.index] = kept.columns
                if kept.bias is not None:
                    down.bias.copy_(kept.bias)
        if self.switched and self.kept:
            _switch(self._module, self._layout, on=False)
        self.kept = {}


def bake(model: LiveModel | Any, edit: StoredEdit | Edit | Intervention) -> Baked:
    """Change a model's weights in place, so that it does without hooks what the edit's hooks do.

    model: a `LiveModel`, a HuggingFace model or a pipeline. Computed in float32 and rounded once, to the weights' own
    precision. An infinite neuron times a gain of 0 is NaN here, which hooks avoid.

    Raises:
        UsageError: other weights than the edit was made for, a neuron they lack, or numbers too large for them.
        Unsupported: what cannot be written into weights (changes at some positions, noise, a constant at the gate tap
            or where there is no bias), or weights that cannot be changed (quantised, shared, not in memory).
    """
    edit = edit.data if isinstance(edit, StoredEdit) else edit
    intervention = edit.intervention if isinstance(edit, Edit) else edit
    module = module_of(model)
    layout = model.layout if isinstance(model, LiveModel) else locate(module)
    check_fits(intervention, layout)
    layers = _changes(intervention, layout)
    _check_weights(module, layout, layers)
    if isinstance(edit, Edit):
        require_own(edit, model)
    new = {layer: _new_columns(layout.down[layer], changes, intervention) for layer, changes in layers.items()}
    lacking = [
        y for y, (_, _, bias) in new.items() if bias is not None and getattr(layout.down[y], "bias", None) is None
    ]
    if lacking:
        _check_switch(module, layout, lacking[0])
    baked = Baked(
        module, layout, {y: _original_columns(layout.down[y], *n) for y, n in new.items()}, switched=bool(lacking)
    )
    try:
        if lacking:
            _switch(module, layout, on=True)
        baked.numbers = sum(_write(layout.down[layer], *n) for layer, n in new.items())
    except BaseException:
        baked.restore()
        raise
    return baked


def _changes(intervention: Intervention, layout: Layout) -> dict[int, Sequence[Change]]:
    """Layer -> its changes.

    Raises:
        Unsupported: weights cannot do them.
    """
    for change in intervention.changes:
        at_gate = intervention.tap == GATE and layout.gates[change.neuron.layer] is not None
        if change.where != EVERYWHERE:
            raise Unsupported(f"the edit acts only where {change.where}, and weights act everywhere; {HOOKS}")
        if change.noise:
            raise Unsupported(f"the edit draws new noise at every position, and weights are constant; {HOOKS}")
        if at_gate and change.bias:
            raise Unsupported(
                "the edit adds a constant at the gate tap, where it is multiplied by the other projection; "
                f"no weights do that; {HOOKS}"
            )
    return {layer: groups[0][1] for layer, groups in grouped(intervention.changes).items()}


def _check_weights(module: Any, layout: Layout, layers: Mapping[int, Sequence[Change]]) -> None:
    """Raise Unsupported where the down projections are anything but plain matrices in memory."""
    config = getattr(module.config, "quantization_config", None)
    if getattr(module, "is_quantized", False) or getattr(module, "quantization_method", None) or config is not None:
        raise Unsupported(
            f"this model is quantised, and a rounded edit is another edit; load it without quantisation, or {HOOKS}"
        )
    parameter_ids = [id(p) for _, p in module.named_parameters(remove_duplicate=False)]
    for layer in layers:
        down: Any = layout.down[layer]
        weight: Any = getattr(down, "weight", None)
        floating = type(weight) is nn.Parameter and weight.dtype in (*DTYPES.values(), torch.float64)
        if type(down) not in (nn.Linear, Conv1D) or not floating:
            raise Unsupported(
                f"the down projection of layer {layer} is a {type(down).__module__}.{type(down).__name__} and not a "
                f"plain torch.nn.Linear with float weights (quantised, or an adapter?); load a plain model, or {HOOKS}"
            )
        if weight.is_meta:
            raise Unsupported(
                f"the weights of layer {layer} are not in memory (device_map?); load them all, or {HOOKS}"
            )
        if parameter_ids.count(id(weight)) > 1:
            raise Unsupported(f"the down projection of layer {layer} is shared with another layer; {HOOKS}")


NewColumns = tuple[Tensor, Tensor, Tensor | None]
"""Columns of a down projection, (k,) int64; their new values, (d_model, k); the new bias, (d_model,), if it changes."""


@torch.no_grad()
def _new_columns(down: Any, changes: Sequence[Change], intervention: Intervention) -> NewColumns:
    device, dtype = down.weight.device, down.weight.dtype
    exact = torch.promote_types(dtype, torch.float32)
    index = torch.tensor([c.neuron.index for c in changes], device=device)
    gain, bias = (
        torch.tensor(v, dtype=exact, device=device) for v in ([c.gain for c in changes], [c.bias for c in changes])
    )
    write = columns_of(down)[:, index].to(exact)
    for i, change in enumerate(changes):
        if (delta := intervention.delta(change)) is not None:
            write[:, i] += torch.from_numpy(np.asarray(delta)).to(write)
    columns, new_bias = (gain * write).to(dtype), None
    if any(c.bias for c in changes):
        before = 0 if down.bias is None else down.bias.to(exact)
        new_bias = (before + write @ bias).to(dtype)
    if not all(bool(t.isfinite().all()) for t in (columns, new_bias) if t is not None):
        raise UsageError(f"the edit's numbers are too large for {str(dtype).removeprefix('torch.')} weights; {HOOKS}")
    return index, columns, new_bias


def _original_columns(down: Any, index: Tensor, _columns: Tensor, bias: Tensor | None) -> OriginalColumns:
    old = down.bias.detach().clone() if bias is not None and down.bias is not None else None
    return OriginalColumns(index, columns_of(down)[:, index].detach().clone(), old)


@torch.no_grad()
def _write(down: Any, index: Tensor, columns: Tensor, bias: Tensor | None) -> int:
    """Write into a down projection; returns how many numbers changed."""
    changed = int((columns_of(down)[:, index] != columns).sum())
    columns_of(down)[:, index] = columns
    if bias is not None:
        changed += int((down.bias != bias).sum())
        down.bias.copy_(bias)
    return changed


def _linears(layout: Layout) -> list[nn.Linear]:
    """Every projection of every FFN; none where an FFN is not a module of its own."""
    return [m for ffn in layout.ffns if ffn is not None for m in ffn.modules() if isinstance(m, nn.Linear)]


def _configs(module: Any) -> list[Any]:
    """The configs of the language model, each once: its modules may keep copies."""
    configs = [module.config.get_text_config(decoder=True)]
    for part in module.modules():
        config = getattr(part, "config", None)
        if type(config) is type(configs[0]) and all(config is not known for known in configs):
            configs.append(config)
    return configs


def _check_switch(module: Any, layout: Layout, layer: int) -> None:
    """Raise Unsupported where this architecture has no biases in its FFNs, to be switched on by `mlp_bias`."""
    refused = Unsupported(
        f"the constant needs a bias on the down projection of layer {layer}, "
        f"which the architecture {type(module).__name__} does not have; {HOOKS}"
    )
    names = {id(part): name for name, part in module.named_modules()}
    new_biases = {f"{names[id(linear)]}.bias" for linear in _linears(layout)}
    config = copy.deepcopy(module.config)
    text = config.get_text_config(decoder=True)
    if getattr(text, "mlp_bias", None) is not False:
        raise refused
    text.mlp_bias = True
    try:
        with torch.device("meta"):
            twin = type(module)(config)  # what will be built when the checkpoint is loaded
    except Exception as error:
        raise refused from error
    if {n for n, _ in twin.named_parameters()} - {n for n, _ in module.named_parameters()} != new_biases:
        raise refused


@torch.no_grad()
def _switch(module: Any, layout: Layout, *, on: bool) -> None:
    """Give every FFN projection a bias of zeros, or take the biases away."""
    for linear in _linears(layout):
        zeros = torch.zeros(linear.out_features, dtype=linear.weight.dtype, device=linear.weight.device)
        linear.bias = nn.Parameter(zeros, requires_grad=linear.weight.requires_grad) if on else None  # type: ignore[assignment]
    for config in _configs(module):
        config.mlp_bias = on
