"""The arguments and the output of a decoder layer."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

Call = tuple[tuple[Any, ...], dict[str, Any]]

CACHES = ("cache", "past_key_values", "past_key_value")
"""Names, by release of transformers, of the argument with the keys and values of earlier positions."""


def cache_name(kwargs: Mapping[str, Any]) -> str:
    """The name of the cache among the arguments of a call."""
    named = [name for name in CACHES if name in kwargs]
    return next((name for name in named if kwargs[name] is not None), (*named, CACHES[0])[0])


def split_hidden(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Tensor, tuple[Any, ...], dict[str, Any]]:
    """The hidden state of a decoder layer's call, the other positional and the keyword arguments."""
    rest = dict(kwargs)
    if args:
        return args[0], tuple(args[1:]), rest
    return rest.pop("hidden_states"), (), rest


def by_name(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Tensor, dict[str, Any]]:
    """The hidden state of a decoder layer's call, and all its other arguments by name: some models (GPT-2) pass their
    mask or cache by position."""
    hidden, rest, named = split_hidden(args, kwargs)
    names = [name for name in inspect.signature(module.forward).parameters if name not in ("self", "hidden_states")]
    return hidden, dict(zip(names, rest, strict=False)) | named


def first_of(output: Any) -> Tensor:
    """The hidden state in a decoder layer's output, which some layers put first in a tuple."""
    hidden: Tensor = output[0] if isinstance(output, tuple) else output
    return hidden


def rows_of(value: Any, rows: Tensor, batch: int) -> Any:
    """The part of a layer argument that belongs to the chosen batch rows.

    Tensors whose first dimension is the batch are indexed; those of size 1 broadcast; position lists
    (one dimension) and everything else are shared by all rows.
    """
    if isinstance(value, Tensor):
        return value[rows] if value.dim() >= 2 and value.shape[0] == batch > 1 else value
    if isinstance(value, tuple | list):
        return type(value)(rows_of(item, rows, batch) for item in value)
    return value
