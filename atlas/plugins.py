"""Plug-ins: entries that installed distributions add to the registries by entry points (see `atlas.registry`).

Metadata is read only where a registry is; a plug-in's module is imported only by `registry.load`. A faulty distribution
must not break a command that does not use its entry, so a fault is a message here and not an exception.
"""

from __future__ import annotations

import ast
import hashlib
import re
import sys
from dataclasses import dataclass
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path

GROUPS = "neuron_atlas."
REQUIRED = {"families": "FAMILY", "figures": "draw", "questions": None}
"""Kind -> the name that a module must define; `build` for every other kind. A question's class may have any name."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_MODULE = re.compile(r"\w+(\.\w+)*")


@dataclass(frozen=True, slots=True)
class Plugin:
    """One entry of a distribution. kind: the registry it joins, "methods". module: its dotted name."""

    kind: str
    name: str
    module: str
    distribution: str
    version: str

    @property
    def required(self) -> str | None:
        """The name that its module must define; None where `atlas.api.ask.question_in` finds it."""
        return REQUIRED.get(self.kind, "build")

    def __str__(self) -> str:
        return f"the {singular(self.kind)} '{self.name}' of {self.distribution} {self.version}"


def singular(kind: str) -> str:
    """What one entry of a registry is called: "label rule" of "label_rules"."""
    return {"families": "family"}.get(kind, kind.removesuffix("s").replace("_", " "))


def installed(kind: str | None = None) -> tuple[Plugin, ...]:
    """The plug-ins of one registry, or of all, sorted; read once for each `sys.path`."""
    readable, _ = _read(tuple(sys.path))
    return tuple(plugin for plugin in readable if kind in (None, plugin.kind))


def unreadable() -> list[str]:
    """A message for each distribution with plug-ins whose metadata cannot be read."""
    return list(_read(tuple(sys.path))[1])


@cache
def _read(path: tuple[str, ...]) -> tuple[tuple[Plugin, ...], tuple[str, ...]]:
    """The plug-ins on the search path, and messages about unreadable metadata.

    Each distribution is read separately, as `entry_points()` fails as a whole if one is malformed.
    """
    import importlib.metadata as metadata  # slow to import, and no question needs it

    plugins: dict[str, list[Plugin]] = {}
    faults: dict[str, str] = {}
    for distribution in metadata.distributions(path=list(path)):
        name = ""
        try:
            if GROUPS not in (distribution.read_text("entry_points.txt") or ""):
                continue
            name = str(distribution.metadata["Name"])
            key = re.sub(r"[-_.]+", "-", name).lower()
            if key not in plugins:  # Python does not import an older copy further down the path
                first = next(iter(metadata.distributions(name=name, path=list(path))))
                plugins[key] = [
                    Plugin(point.group.removeprefix(GROUPS), point.name, point.value, name, str(first.version))
                    for point in first.entry_points
                    if point.group.startswith(GROUPS)
                ]
        except Exception as error:  # other commands must work whatever the metadata contains
            title = name or f"a distribution at {getattr(distribution, '_path', 'an unknown place')}"
            faults[title] = f"the plug-ins of {title} cannot be read ({type(error).__name__}); install it again"
    plugins_found = [plugin for of_one in plugins.values() for plugin in of_one]
    return tuple(sorted(plugins_found, key=lambda p: (p.kind, p.name, p.distribution))), tuple(faults.values())


def shadowed(plugin: Plugin) -> str:
    """The message for a plug-in with the name of an entry of the atlas."""
    remedy = _remedy(plugin, "a version that renames it")
    return f"{plugin} is not used, as neuron-atlas has an entry of that name; {remedy}"


def ambiguous(plugins: list[Plugin]) -> str:
    """The message for a name that several distributions have."""
    first = plugins[0]
    owners = " and ".join(f"of {plugin.distribution} {plugin.version}" for plugin in plugins)
    return (
        f"there are {len(plugins)} {first.kind.replace('_', ' ')} called '{first.name}', {owners}; keep one of them "
        f"(pip uninstall {plugins[-1].distribution}) or install a version that renames it"
    )


def broken(plugin: Plugin, reason: str) -> str:
    """The message for a plug-in that cannot be used."""
    return f"{plugin} cannot be used: {reason}; {_remedy(plugin, 'a version that works here')}"


def misnamed(plugin: Plugin) -> str | None:
    """What is wrong with the entry point itself; None where nothing is."""
    if not _NAME.fullmatch(plugin.name):
        return broken(plugin, "a name has only letters, digits, - and _ and does not begin with _ or -")
    if not _MODULE.fullmatch(plugin.module):
        return broken(plugin, f"'{plugin.module}' does not name a module, such as package.module")
    return None


def fault(plugin: Plugin) -> str | None:
    """Why a plug-in cannot be used, as far as its source shows without importing it; None where nothing is wrong.

    Its required name must be defined, and the modules that it imports at its top level must be installed.
    """
    if message := misnamed(plugin):
        return message
    if _spec(plugin.module) is None:
        return broken(plugin, f"there is no module {plugin.module}")
    file = source(plugin.module)
    if file is None:
        return f"{plugin} cannot be listed: {plugin.module} has no Python source"
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError) as error:
        return broken(plugin, f"{plugin.module} cannot be read ({type(error).__name__})")
    for module in _imports(tree):
        if _spec(module) is None:
            return broken(plugin, f"it imports {module}, which is not installed")
    if plugin.required and not {plugin.required, "*"} & _defined(tree):
        return broken(plugin, f"{plugin.module} has no {plugin.required}")
    return None


def source(module: str) -> Path | None:
    """The source file of a module, found without importing it or its packages; None where there is none."""
    spec = _spec(module)
    file = Path(spec.origin) if spec is not None and spec.origin else None
    return file if file is not None and file.suffix == ".py" and file.is_file() else None


def identity(plugin: Plugin) -> dict[str, str | None]:
    """What identifies a plug-in's code: distribution, version, and the sha256 of its module's file."""
    file = source(plugin.module)
    digest = hashlib.sha256(file.read_bytes()).hexdigest() if file else None
    return {"distribution": plugin.distribution, "version": plugin.version, "sha256": digest}


def _remedy(plugin: Plugin, replacement: str) -> str:
    name = plugin.distribution
    return f"install {replacement} (pip install --upgrade {name}) or remove it (pip uninstall {name})"


def _spec(module: str) -> ModuleSpec | None:
    """The spec of a dotted name, from each finder in turn, as `importlib.util.find_spec` would import its packages."""
    places = None
    spec: ModuleSpec | None = None
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        name = ".".join(parts[:depth])
        spec = None
        for finder in sys.meta_path:
            try:
                spec = finder.find_spec(name, places)
            except (ImportError, AttributeError, KeyError, ValueError, OSError):
                continue  # a finder that cannot tell
            if spec is not None:
                break
        if spec is None:
            return None
        places = None if spec.submodule_search_locations is None else list(spec.submodule_search_locations)
        if places is None and depth < len(parts):
            return None  # a module, not a package
    return spec


def _imports(tree: ast.Module) -> list[str]:
    """The modules that a module cannot be imported without: named at its top level, outside `try` and `if`."""
    modules = []
    for node in tree.body:
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            modules.append(node.module)
    return modules


def _defined(tree: ast.Module) -> set[str]:
    """The names that a module defines or imports, "*" where it imports all names of another."""
    defined: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.ImportFrom | ast.Import):
            defined |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            defined.add(node.id)
    return defined
