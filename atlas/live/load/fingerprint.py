"""Which weights a model has: a content hash that does not depend on the precision they are loaded in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from atlas.errors import Unsupported

_known: WeakKeyDictionary[nn.Module, tuple[str, str]] = WeakKeyDictionary()

STATISTICS = ("running_mean", "running_var")
"""Buffers that training fills; the class itself makes all others."""

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every parameter, ordered by name, the statistics of batch norms, and the buffers that quantised projections have
    instead of weights.

    Raises:
        Unsupported: some cannot be read.
    """
    named: dict[str, Tensor] = dict(model.named_parameters())
    named |= {name: value for name, value in model.named_buffers() if name.endswith(STATISTICS)}
    if any(value.is_meta for value in named.values()):
        # Tied weights that are kept on disk are no longer one tensor.
        tied = getattr(model, "all_tied_weights_keys", None) or {}
        named = {name: value for name, value in named.items() if tied.get(name) not in named}
    for name, module in model.named_modules():
        if hasattr(module, "in_features") and type(module) is not nn.Linear:
            buffers = {f"{name}.{buffer}": value for buffer, value in module.named_buffers()}
            if not buffers and next(module.parameters(), None) is None:
                raise Unsupported(
                    f"the weights of {name} ({type(module).__name__}) cannot be read, so the model cannot be "
                    "identified; to edit any weights, use .on(model, any_weights=True)"
                )
            named |= buffers
    for name in sorted(named):
        yield name, offloaded(model, name) if named[name].is_meta else named[name].detach()


def offloaded(model: nn.Module, name: str) -> Tensor:
    """A weight that accelerate keeps on disk or on the CPU until its module is called."""
    parts = name.split(".")
    for cut in reversed(range(len(parts))):
        hook: Any = getattr(model.get_submodule(".".join(parts[:cut])), "_hf_hook", None)
        for offloader in getattr(hook, "hooks", (hook,)):
            if getattr(offloader, "offload", False):
                weight: Tensor = offloader.weights_map[".".join(parts[cut:])]
                return weight
    raise Unsupported(f"the weights {name} have no values (device 'meta'); load the model with its weights")


@torch.no_grad()
def _state(model: nn.Module) -> str:
    """A quick check of content: the bits of every parameter, read as integers, summed by row and by column.

    PyTorch's own version counters miss what is written through `.data`.
    """
    digest = hashlib.blake2b()
    for _, value in _weights(model):
        bits = value.contiguous().view(_BITS[value.element_size()])
        bits = bits.reshape(bits.shape[0], -1) if bits.dim() else bits.reshape(1, 1)
        for dimension in (0, 1):
            digest.update(bits.sum(dimension, dtype=torch.int64).cpu().numpy().data)
    return digest.hexdigest()


def fingerprint(model: nn.Module) -> str:
    """64 hex digits over every parameter's name, shape and value rounded to bfloat16.

    The statistics of batch norms count as parameters.

    Rounding makes a float32 checkpoint and the same checkpoint loaded as bfloat16 one model, so an edit
    found in one precision applies in the other; any change of at least one part in 128 in any weight gives
    another fingerprint. The answer is remembered until a parameter's content changes, however it was written to.
    A quantised copy has another fingerprint; a copy spread over devices, or partly on disk, has the same.

    Raises:
        Unsupported: weights that cannot be read.
    """
    state = _state(model)
    if model in _known and _known[model][0] == state:
        return _known[model][1]
    digest = hashlib.sha256()
    for name, value in _weights(model):
        digest.update(f"{name}{list(value.shape)}".encode())
        values = value.to("cpu")
        if values.is_floating_point():
            values = values.to(torch.bfloat16).contiguous().view(torch.int16)
        digest.update(values.contiguous().numpy().data)
    _known[model] = (state, digest.hexdigest())
    return _known[model][1]


def configuration(model: Any, processor: Any) -> str:
    """64 hex digits of what determines a model's numbers besides its weights: its config and generation config, and the
    processor's tokenizer, chat template and settings for pictures, sound and videos."""
    tokenizer = getattr(processor, "tokenizer", processor)
    pictures = getattr(processor, "image_processor", None)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    generation = getattr(model, "generation_config", None)
    parts = [
        stable_settings(model.config.to_dict()),
        stable_settings(generation.to_dict()) if generation is not None else None,
        backend.to_str() if backend is not None else sorted(tokenizer.get_vocab().items()),
        getattr(processor, "chat_template", None),
        stable_settings(pictures.to_dict()) if pictures is not None else None,
    ]
    # Only where present, so that models without them keep the hash that they had before these were included.
    ears = getattr(processor, "feature_extractor", None) or getattr(processor, "audio_processor", None)
    if ears is not None and ears is not pictures:
        parts.append({"sound": _processor_settings(ears)})
    videos = getattr(processor, "video_processor", None)
    if videos is not None and videos is not pictures:
        parts.append({"video": _processor_settings(videos)})
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _processor_settings(part: Any) -> Any:
    """The class and the settings of a medium's processor; `Frames` has those of the picture processor, which are
    already included."""
    settings = part.to_dict() if hasattr(part, "to_dict") else {}
    return [type(part).__name__, {k: v for k, v in stable_settings(settings).items() if k != "processor_class"}]


_PASSING = {"_name_or_path", "name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures"}
_PASSING |= {"_diffusers_version", "_use_default_values"}


def stable_settings(content: Any) -> Any:
    """A config without its path, the library version that wrote it and the precision it is loaded in."""
    if isinstance(content, dict):
        return {str(k): stable_settings(v) for k, v in content.items() if k not in _PASSING}
    return [stable_settings(v) for v in content] if isinstance(content, list | tuple) else content
