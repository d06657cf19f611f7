"""No room on the disk: a clear line, nothing lost, and the same command works once there is room."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faulting import Done, Nursery, contents
from operations import NAMES, Operation, Operations

from atlas import Atlas
from atlas.errors import StoreUnavailable
from atlas.maintain.rebuild import rebuild
from atlas.store.database import database_file, wal

WRITING = [name for name in NAMES if name != "init" and not name.startswith("rm")]


def require_clear(done: Done) -> None:
    """One line that says what is wrong, and the code for it."""
    assert done.code in (1, 3), done
    assert "Traceback" not in done.err and "internal error" not in done.err, done.err
    said = [line for line in done.err.splitlines() if line.startswith("atlas: ")]
    assert len(said) == 1 and done.err.endswith(f"{said[0]}\n"), done.err
    assert "is full" in said[0] or "File too large" in said[0] or "No space left" in said[0], said


def require_nothing_lost(operation: Operation, path: Path) -> None:
    if database_file(operation.before).exists() and operation.command(path)[:2] != ("db", "upgrade"):
        had, has = contents(operation.before), contents(path)
        for table, rows in had.items():
            assert not set(map(repr, rows)) - set(map(repr, has[table])), table


def without_room(nursery: Nursery, operation: Operation, path: Path, limit: int) -> bool:
    """Whether the limit on the size of files made the command fail."""
    first = nursery.run(*operation.begin(path), grow=limit)
    if first.code == 0:  # what it stored may be in the log alone
        operation.require_done(path, limit)
    else:
        require_clear(first)
        require_nothing_lost(operation, path)
        operation.again(nursery, path, limit)
    shutil.rmtree(path)
    return first.code != 0


@pytest.mark.parametrize("name", WRITING)
def test_files_cannot_grow(name: str, operations: Operations, nursery: Nursery, tmp_path: Path) -> None:
    operation = operations(name)
    assert without_room(nursery, operation, tmp_path / "x.atlas", 1000)
    without_room(nursery, operation, tmp_path / "x.atlas", operation.size // 8)


@pytest.mark.nightly
@pytest.mark.parametrize("name", NAMES)
def test_files_cannot_grow_beyond_any_size(name: str, operations: Operations, nursery: Nursery, tmp_path: Path) -> None:
    operation = operations(name)
    # From 1,000 bytes on: with less the message itself has no room in the file that the test reads it from.
    sizes = [round(1000 * (operation.size / 1000) ** (i / 16)) for i in range(16)]
    assert sum(without_room(nursery, operation, tmp_path / "x.atlas", size) for size in sizes) > 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """A file system in memory of its own, that leaves so many bytes; 0 gives the room back."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(folder)]
    if os.geteuid() != 0 or shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system may be mounted here")

    def leave(free: int) -> Path:
        (folder / "ballast").unlink(missing_ok=True)
        if free:
            there = os.statvfs(folder)
            (folder / "ballast").write_bytes(b"\0" * (there.f_bavail * there.f_frsize - free))
        return folder

    try:
        yield leave
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("name", ["ingest", "load", "edit", "upgrade", "compact", "rebuild"])
def test_a_full_disk(name: str, operations: Operations, nursery: Nursery, small_disk: Callable[[int], Path]) -> None:
    operation = operations(name)
    path = small_disk(0) / "x.atlas"
    command = operation.begin(path)
    small_disk(8192)
    first = nursery.run(*command)
    require_clear(first)
    require_nothing_lost(operation, path)
    small_disk(0)
    operation.again(nursery, path, first)


def test_an_edit_cannot_be_handed_on(world: Path, nursery: Nursery, small_disk: Callable[[int], Path]) -> None:
    target = small_disk(0) / "noisy.safetensors"
    command = ("edit", "export", "noisy", target, "--atlas", world)
    small_disk(4096 // 4)
    require_clear(nursery.run(*command))
    assert [f.name for f in small_disk(0).iterdir()] == []
    nursery.good(*command)


def test_what_is_stored_stays_in_the_log(world: Path, nursery: Nursery) -> None:
    """A transaction that the file has no room for any more, but the log has: it is stored, and a reader sees it."""
    done = nursery.run("edit", "create", "more", "--scale", "2", "--of", "quiet", "--atlas", world, grow=100_000)
    assert done.code == 0 and "is full; what was stored is safe in atlas.duckdb.wal" in done.err, done
    assert wal(world).stat().st_size > 0
    assert {e["name"] for e in Atlas.open(world).edits().to_pylist()} == {"quiet", "noisy", "more"}


def test_a_rebuild_never_takes_a_file_whose_log_it_leaves(
    world: Path, nursery: Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    from atlas.maintain import rebuild as module

    monkeypatch.setattr(module, "load_edit", lambda *_: wal(next(world.glob("rebuild-*"))).write_bytes(b"left"))
    before = contents(world)
    monkeypatch.setattr(module, "_try_to_store", lambda new, skipped, put: put(None) or True)
    monkeypatch.setattr(module, "load_run", lambda connection, folder: None)
    with pytest.raises(StoreUnavailable, match="is full"):
        rebuild(world)
    assert contents(world) == before
