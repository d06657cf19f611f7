"""Which weights these are: a content hash that the precision a checkpoint is loaded in does not change."""

from __future__ import annotations

import hashlib
from weakref import WeakKeyDictionary

import torch
from torch import nn

_State = tuple[tuple[int, int], ...]
_known: WeakKeyDictionary[nn.Module, tuple[_State, str]] = WeakKeyDictionary()


def fingerprint(model: nn.Module) -> str:
    """64 hex digits over every parameter's name, shape and value rounded to bfloat16.

    Rounding makes a float32 checkpoint and the same checkpoint loaded as bfloat16 one model, so an edit
    found in one precision applies in the other; any change of at least one part in 256 in any weight gives
    another fingerprint. The answer is remembered until a parameter is written to in place.
    """
    parameters = sorted(model.named_parameters(), key=lambda pair: pair[0])
    state = tuple((p.data_ptr(), p._version) for _, p in parameters)
    if model in _known and _known[model][0] == state:
        return _known[model][1]
    digest = hashlib.sha256()
    for name, parameter in parameters:
        digest.update(f"{name}{list(parameter.shape)}".encode())
        values = parameter.detach().to("cpu")
        if values.is_floating_point():
            values = values.to(torch.bfloat16).contiguous().view(torch.int16)
        digest.update(values.contiguous().numpy().data)
    _known[model] = (state, digest.hexdigest())
    return _known[model][1]
