"""Records of an atlas without the paths of the machine that made them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

_USUAL = (
    "Applications Users Volumes bin content data dev etc gpfs home kaggle lib lustre media mnt nfs opt private proc"
)
_USUAL += " project projects root run scratch srv storage sys tmp usr var work workspace"


def _pattern() -> re.Pattern[str]:
    """Absolute paths below a common root folder or one of this machine; `/m/01g` (a class of OpenImages) is not one."""
    try:
        root_folders = [folder.name for folder in Path("/").iterdir() if folder.is_dir()]
    except OSError:
        root_folders = []
    roots = "|".join(sorted({re.escape(name) for name in (*_USUAL.split(), *root_folders)}))
    inside = r"[^\s'\"<>|:;,]*"
    return re.compile(rf"(?<![\w/.~-])(?:file://)?(?:(?:~|/(?:{roots}))(?:/{inside})+|[A-Za-z]:[\\/]{inside})")


_PATHS = _pattern()


def portable(value: Any, *known: str | None) -> Any:
    """Plain JSON data with every absolute path replaced by its last name, in keys too.

    known: folders to replace whatever they look like.
    """
    if isinstance(value, str):
        for folder in known:
            if folder and len(folder) > 1:
                value = value.replace(folder, Path(folder).name)
        return _PATHS.sub(lambda path_match: re.split(r"[\\/]", path_match[0].rstrip("/\\"))[-1], value)
    if isinstance(value, Mapping):
        return {portable(key, *known): portable(part, *known) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [portable(part, *known) for part in value]
    return value


def portable_manifest(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A run's manifest as a bundle has it: the dataset without its path, a model's folder by its last name, the run's
    record without any path. Rows are untouched."""
    bundled = dict(manifest)
    path = (manifest["dataset"] or {}).get("path")
    if manifest["model"]:
        bundled["model"] = portable_model(manifest["model"])
    if path is not None:
        bundled["dataset"] = {**manifest["dataset"], "path": None}
    known = [path, *folders([manifest["model"]["name"]] if manifest["model"] else [])]
    of_run = {name: portable(manifest["run"][name], *known) for name in ("job", "environment", "outcome")}
    bundled["run"] = {**manifest["run"], **of_run}
    return bundled


def portable_model(row: Mapping[str, Any]) -> dict[str, Any]:
    """A model's row; a name that is a folder becomes its last part, as the fingerprint identifies the weights."""
    name = str(row["name"])
    plain = PurePosixPath(name).name if name.startswith(("/", "~")) else PureWindowsPath(name).name
    return {**row, "name": plain if _is_folder(name) and plain else name}


def folders(names: Iterable[str]) -> list[str]:
    """The models' names that are folders, the longest first."""
    return sorted(filter(_is_folder, names), key=len, reverse=True)


def _is_folder(name: str) -> bool:
    return name.startswith(("/", "~")) or PureWindowsPath(name).is_absolute()
