"""A folder is the registry: one file is one method, dataset, metric; its name is its name everywhere.

`ingest/methods/contribution.py` is `--methods contribution` and `maps.method = 'contribution'`. A file whose
name begins with an underscore is a helper, not an entry.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Callable
from types import ModuleType
from typing import Any

from atlas.errors import UsageError, unknown

LISTED = ("methods", "datasets")
"""Folders that a command lists."""


def names(package: ModuleType) -> list[str]:
    """The entries of a package's folder, sorted; nothing is imported."""
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))


def load(package: ModuleType, name: str) -> ModuleType:
    """Import one entry.

    Raises:
        UsageError: no file of that name; the message has the nearest name.
    """
    kinds = package.__name__.rpartition(".")[2]
    if name not in names(package):
        raise _unknown(kinds.removesuffix("s").replace("_", " "), name, names(package), kinds)
    return importlib.import_module(f"{package.__name__}.{name}")


def _unknown(what: str, name: str, known: list[str], kinds: str) -> UsageError:
    """The error for a name that does not exist; of what no command lists it has all that there is."""
    if kinds in LISTED:
        return unknown(what, name, known, f"atlas {kinds}")
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    hint = f" did you mean '{near[0]}'?" if near else ""
    return UsageError(f"no {what} called '{name}';{hint} there are: {', '.join(known) or 'none'}")


def parameters(build: Callable[..., Any]) -> dict[str, Any]:
    """The keyword parameters of a `build` function and their defaults: what a run records."""
    found = inspect.signature(build).parameters.values()
    return {p.name: p.default for p in found if p.kind is p.KEYWORD_ONLY and p.default is not p.empty}


def resolve(name: str, build: Callable[..., Any], given: dict[str, Any]) -> dict[str, Any]:
    """Every parameter of `build` with the given values in place, cast to the default's type.

    Raises:
        UsageError: a parameter that does not exist, or a value of the wrong type.
    """
    known = parameters(build)
    for key in given:
        if key not in known:
            kinds = build.__module__.split(".")[-2]  # the entry's folder, which is also the command that lists it
            raise _unknown(f"parameter of {name}", key, list(known), kinds)
    return {key: _cast(name, key, given[key], default) if key in given else default for key, default in known.items()}


def _cast(name: str, key: str, value: Any, default: Any) -> Any:
    if default is None or type(value) is type(default):
        return value
    try:
        if isinstance(default, bool):
            return {"true": True, "false": False, "1": True, "0": False}[str(value).lower()]
        return type(default)(value)
    except (KeyError, TypeError, ValueError):
        kind = type(default).__name__
        raise UsageError(f"{name}: {key}={value!r} is not a {kind}; the default is {default!r}") from None
