"""Which neurons of a multimodal language model carry a concept, in which modality, how do we know, and what
happens without them.

    from atlas import Atlas, ablate

    atlas = Atlas.open()
    dog = atlas.query("dog", method="contribution", source="image", top=50)
    with atlas.create_edit("no-dog", dog, ablate()).on(model):
        model.generate(**inputs)

Importing this package loads neither torch nor a database.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atlas.api import datasets as datasets
    from atlas.api.atlas import Atlas as Atlas
    from atlas.api.requests import get_model as get_model
    from atlas.api.requests import load_model as load_model
    from atlas.edits.kinds import ablate as ablate
    from atlas.edits.kinds import mean as mean
    from atlas.edits.kinds import minimum as minimum
    from atlas.edits.kinds import noise as noise
    from atlas.edits.kinds import scale as scale
    from atlas.edits.kinds import set_to as set_to
    from atlas.edits.kinds import steer as steer
    from atlas.edits.kinds import write_noise as write_noise
    from atlas.edits.library import StoredEdit as StoredEdit
    from atlas.errors import AtlasError as AtlasError
    from atlas.errors import IntegrityError as IntegrityError
    from atlas.errors import StoreUnavailable as StoreUnavailable
    from atlas.errors import Unsupported as Unsupported
    from atlas.errors import UsageError as UsageError
    from atlas.neurons import Neuron as Neuron
    from atlas.query.answer import Answer as Answer
    from atlas.query.neuron_set import NeuronSet as NeuronSet

_MODULES = {
    "atlas.api": ("datasets",),
    "atlas.api.atlas": ("Atlas",),
    "atlas.api.requests": ("get_model", "load_model"),
    "atlas.edits.kinds": ("ablate", "mean", "minimum", "noise", "scale", "set_to", "steer", "write_noise"),
    "atlas.edits.library": ("StoredEdit",),
    "atlas.errors": ("AtlasError", "IntegrityError", "StoreUnavailable", "Unsupported", "UsageError"),
    "atlas.neurons": ("Neuron",),
    "atlas.query.answer": ("Answer",),
    "atlas.query.neuron_set": ("NeuronSet",),
}
"""Where the public names are; a module is imported when one of its names is first used."""

_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'atlas' has no attribute '{name}'")
    if _HOME[name] == "atlas.api":
        return importlib.import_module(f"atlas.api.{name}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
