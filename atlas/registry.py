"""Registries: the modules of a folder, and those that installed distributions add to it.

One file is one method, dataset or metric, and its name is its name everywhere: `ingest/methods/contribution.py` is
`--methods contribution` and `maps.method = 'contribution'`. A file whose name begins with an underscore is a helper,
not an entry.

Another distribution adds an entry by an entry point `name = "package.module"` of the group `neuron_atlas.methods` (or
`.datasets`, `.metrics`: the folder's name); the module keeps the contract of a file of the folder, which
`atlas.testing` checks. `atlas.plugins` reads the entry points. Nothing is imported before it is used.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from atlas import plugins
from atlas.errors import AtlasError, AtlasWarning, UsageError, unknown
from atlas.plugins import Plugin

LISTED = ("methods", "datasets")
"""Folders whose entries a command lists."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry that can be listed. file: its source. plugin: where it comes from; None for a file of the folder."""

    name: str
    file: Path
    plugin: Plugin | None

    @property
    def distribution(self) -> str:
        """The name of the distribution that has the entry."""
        return "neuron-atlas" if self.plugin is None else self.plugin.distribution


def kind_of(package: ModuleType) -> str:
    """The folder's name, which is the last part of its entry point group: "methods"."""
    return package.__name__.rpartition(".")[2]


def folder_names(package: ModuleType) -> list[str]:
    """The entries of a package's folder, sorted, without plug-ins; nothing is imported and no metadata is read."""
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))


def names(package: ModuleType) -> list[str]:
    """The entries of a package's folder and those of plug-ins, sorted; nothing is imported."""
    return sorted({*folder_names(package), *(p.name for p in plugins.installed(kind_of(package)))})


def origin(package: ModuleType, name: str) -> Plugin | None:
    """The plug-in of an entry; None for a file of the folder, which takes precedence over a plug-in of the same name,
    with a warning.

    Raises:
        UsageError: no entry of that name, with the nearest one; or several distributions have it.
    """
    kind = kind_of(package)
    of_name = [plugin for plugin in plugins.installed(kind) if plugin.name == name]
    if name in folder_names(package):
        for plugin in of_name:
            _warn_once(plugins.shadowed(plugin))
        return None
    if not of_name:
        for message in plugins.unreadable():  # the entry may belong to one of these
            _warn_once(message)
        raise _unknown(plugins.singular(kind), name, names(package), kind)
    if len(of_name) > 1:
        raise UsageError(plugins.ambiguous(of_name))
    return of_name[0]


def load(package: ModuleType, name: str) -> ModuleType:
    """Import one entry.

    Raises:
        UsageError: no entry of that name, with the nearest one; or several distributions have it.
        AtlasError: a plug-in that cannot be imported or lacks what its kind of entry must have.
    """
    plugin = origin(package, name)
    if plugin is None:
        return importlib.import_module(f"{package.__name__}.{name}")
    if fault := plugins.misnamed(plugin):
        raise AtlasError(fault)
    try:
        module = importlib.import_module(plugin.module)
    except (Exception, SystemExit) as error:  # any error of the module means that this entry failed
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"
        raise AtlasError(plugins.broken(plugin, reason)) from error
    if plugin.required and not hasattr(module, plugin.required):
        raise AtlasError(plugins.broken(plugin, f"{plugin.module} has no {plugin.required}"))
    return module


def entries(package: ModuleType) -> tuple[list[Entry], list[str]]:
    """The entries, sorted by name, and a message for each plug-in that is left out.

    Nothing is imported, so that a list does not need torch: only the source of a plug-in is read.
    """
    kind, folder = kind_of(package), folder_names(package)
    listed = [Entry(name, Path(package.__path__[0]) / f"{name}.py", None) for name in folder]
    left_out = plugins.unreadable()
    by_name: dict[str, list[Plugin]] = {}
    for plugin in plugins.installed(kind):
        by_name.setdefault(plugin.name, []).append(plugin)
    for name, of_name in by_name.items():
        if name in folder:
            left_out += [plugins.shadowed(plugin) for plugin in of_name]
        elif len(of_name) > 1:
            left_out.append(plugins.ambiguous(of_name))
        elif fault := plugins.fault(of_name[0]):
            left_out.append(fault)
        elif file := plugins.source(of_name[0].module):
            listed.append(Entry(name, file, of_name[0]))
    return sorted(listed, key=lambda entry: entry.name), left_out


def file_of(package: ModuleType, name: str) -> Path | None:
    """The source of an entry, found without importing it; None where there is no usable entry of that name."""
    return next((entry.file for entry in entries(package)[0] if entry.name == name), None)


def origins(used: Mapping[ModuleType, Iterable[str]]) -> dict[str, Any]:
    """A run's record of the plug-ins among its entries: folder -> name -> distribution, version and the sha256 of the
    module's file, as the version often stays the same while a plug-in is developed. Empty without plug-ins.

    used: registry -> names of entries. Names that no installed plug-in has are ignored.
    """
    recorded: dict[str, Any] = {}
    for package, used_names in used.items():
        kind = kind_of(package)
        known = {plugin.name for plugin in plugins.installed(kind)} - set(folder_names(package))
        for name in sorted(known & set(used_names)):
            plugin = origin(package, name)
            if plugin is not None:
                recorded.setdefault(kind, {})[name] = plugins.identity(plugin)
    return recorded


@cache
def _warn_once(message: str) -> None:
    warnings.warn(message, AtlasWarning, stacklevel=4)


def _unknown(what: str, name: str, known: list[str], kinds: str) -> UsageError:
    """The error for a name that does not exist; where no command lists the entries, it names all of them."""
    if kinds in LISTED:
        return unknown(what, name, known, f"atlas {kinds}")
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    hint = f" did you mean '{near[0]}'?" if near else ""
    return UsageError(f"no {what} called '{name}';{hint} there are: {', '.join(known) or 'none'}")


def parameters(build: Callable[..., Any]) -> dict[str, Any]:
    """The keyword parameters of a `build` function and their defaults, which a run records."""
    declared = inspect.signature(build).parameters.values()
    return {p.name: p.default for p in declared if p.kind is p.KEYWORD_ONLY and p.default is not p.empty}


def resolve(name: str, build: Callable[..., Any], values: dict[str, Any]) -> dict[str, Any]:
    """Every parameter of `build` with its given or default value, cast to the default's type.

    Raises:
        UsageError: a parameter that does not exist, or a value of the wrong type.
    """
    known = parameters(build)
    for key in values:
        if key not in known:
            raise _unknown(f"parameter of {name}", key, list(known), _kind_of_build(build))
    return {key: _cast(name, key, values[key], default) if key in values else default for key, default in known.items()}


def _kind_of_build(build: Callable[..., Any]) -> str:
    """The kind of entry that a `build` function makes, which is also the name of the command that lists it."""
    module = str(getattr(build, "__module__", ""))
    of_plugin = next((plugin.kind for plugin in plugins.installed() if plugin.module == module), None)
    return of_plugin or module.rpartition(".")[0].rpartition(".")[2]


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
