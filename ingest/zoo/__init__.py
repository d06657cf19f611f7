"""Models that are known by name: embedded ones, a folder `ingest/zoo/<name>/` each, made by the recipe in
`ingest/zoo/train/`; and those of `ingest/zoo/fetched/`, which `atlas models get` puts into the user's data folder."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ingest.zoo.fetched
from atlas import registry
from atlas.errors import UsageError, unknown
from atlas.store.default_path import models_folder

if TYPE_CHECKING:
    from ingest.zoo.fetched._known import Known

_HERE = Path(__file__).parent


def names() -> list[str]:
    """The embedded models."""
    return sorted(folder.parent.name for folder in _HERE.glob("*/config.json"))


def fetched_names() -> list[str]:
    """The models that `atlas models get` knows."""
    return [name.replace("_", "-") for name in registry.folder_names(ingest.zoo.fetched)]


def known(name: str) -> Known:
    """What is said of a model that can be fetched.

    Raises:
        UsageError: there is none of this name.
    """
    if name in names():
        raise UsageError(f"{name} is embedded and needs no fetching; use it with [[model={name}]]")
    if name not in fetched_names():
        raise unknown("model to get", name, fetched_names(), "atlas models")
    model: Known = importlib.import_module(f"ingest.zoo.fetched.{name.replace('-', '_')}").MODEL
    return model


def fetched_folder(name: str) -> Path | None:
    """The folder of a model that was fetched; None where it is not here."""
    folder = models_folder() / name
    return folder if (folder / "SOURCE.json").is_file() else None


def get(
    name: str,
    *,
    source: str | None = None,
    force: bool = False,
    say: Callable[[str], None] = lambda text: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Fetch a known model, and give its folder; one that is here stays as it is, unless `force`.

    source: "hub" or "index"; see `ingest.zoo.fetched._get.get`. say: is told what is done. progress: is told how many
    megabytes are there, of how many.

    Raises:
        UsageError: no such model, or no such source.
        AtlasError: a part cannot be fetched.
        IntegrityError: a part is not the known one.
    """
    from ingest.zoo.fetched._get import get as fetch
    from ingest.zoo.fetched._known import SOURCES

    model = known(name)
    if source is not None and source not in SOURCES:
        raise UsageError(f"no [[source]] called '{source}'; there are: {', '.join(SOURCES)}")
    here = fetched_folder(name)
    if here is not None and not force:
        about = _read(here / "SOURCE.json")
        say(f"{name} is already here: {about.get('made')}, fingerprint {str(about.get('fingerprint'))[:12]}")
        if about.get("own_files", {}) != model.own_sums():
            say(f"this version of neuron-atlas makes another {name}; [[force]] makes it anew")
        return here
    about = fetch(model, models_folder() / name, source=source, force=force, say=say, progress=progress)
    say(f"{name}: {about['made']}; fingerprint {about['fingerprint'][:12]}")
    return models_folder() / name


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:  # somebody changed it
        return {}
    return content if isinstance(content, dict) else {}


def resolve(name: str) -> str | Path:
    """What to load for a model's name: the folder of an embedded or fetched model, else the name: a folder, a GGUF
    file or a HuggingFace id.

    Raises:
        UsageError: it can be none of these, with the nearest name; or it is known and not fetched yet.
    """
    # A HuggingFace id has an owner before a slash; asking the hub for a misspelt embedded name takes half a minute.
    if name in names():
        return _HERE / name
    if name in fetched_names():
        if (folder := fetched_folder(name)) is not None:
            return folder
        raise UsageError(
            f"the model '{name}' is not here yet; run `atlas models get {name}` ({known(name).megabytes} to download)"
        )
    if "/" in name or name.lower().endswith(".gguf") or (name and Path(name).is_dir()):
        return name
    raise unknown("model", name, [*names(), *fetched_names()], "atlas models")
