"""Which weights these are: a content hash that the precision a checkpoint is loaded in does not change."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

_known: WeakKeyDictionary[nn.Module, tuple[str, str]] = WeakKeyDictionary()

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@torch.no_grad()
def _state(parameters: Sequence[tuple[str, nn.Parameter]]) -> str:
    """A quick check of content: the bits of every parameter, read as integers, summed by row and by column.

    PyTorch's own version counters miss what is written through `.data`.
    """
    digest = hashlib.blake2b()
    for _, parameter in parameters:
        bits = parameter.detach().contiguous().view(_BITS[parameter.element_size()])
        bits = bits.reshape(bits.shape[0], -1) if bits.dim() else bits.reshape(1, 1)
        for dimension in (0, 1):
            digest.update(bits.sum(dimension, dtype=torch.int64).cpu().numpy().data)
    return digest.hexdigest()


def fingerprint(model: nn.Module) -> str:
    """64 hex digits over every parameter's name, shape and value rounded to bfloat16.

    Rounding makes a float32 checkpoint and the same checkpoint loaded as bfloat16 one model, so an edit
    found in one precision applies in the other; any change of at least one part in 256 in any weight gives
    another fingerprint. The answer is remembered until a parameter's content changes, however it was written to.
    """
    parameters = sorted(model.named_parameters(), key=lambda pair: pair[0])
    state = _state(parameters)
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


def configuration(model: Any, processor: Any) -> str:
    """64 hex digits of what decides a model's numbers beside its weights: its config and generation config, and the
    processor's tokenizer, chat template and picture settings."""
    tokenizer = getattr(processor, "tokenizer", processor)
    pictures = getattr(processor, "image_processor", None)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    generation = getattr(model, "generation_config", None)
    parts = [
        _settled(model.config.to_dict()),
        _settled(generation.to_dict()) if generation is not None else None,
        backend.to_str() if backend is not None else sorted(tokenizer.get_vocab().items()),
        getattr(processor, "chat_template", None),
        _settled(pictures.to_dict()) if pictures is not None else None,
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


_PASSING = {"_name_or_path", "name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures"}


def _settled(content: Any) -> Any:
    """A config without where it came from, which library wrote it and the precision it is loaded in."""
    if isinstance(content, dict):
        return {str(k): _settled(v) for k, v in content.items() if k not in _PASSING}
    return [_settled(v) for v in content] if isinstance(content, list | tuple) else content
