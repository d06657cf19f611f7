"""Others in the way: no right to write, two writers, a reader meanwhile, a clock that went back."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faulting import Nursery, contents, files
from operations import DOG, INDEX, Operations

from atlas.maintain.check import check
from atlas.maintain.rebuild import rebuild
from atlas.store import backup, engine

NOBODY = 65534
QUERY = ("query", *DOG, "--csv", "--atlas")
READING = (QUERY, ("neuron", "1/5", "--atlas"), ("edit", "show", "noisy", "--atlas"), ("db", "check", "--atlas"))
WRITING: tuple[tuple[str, ...], ...] = (
    ("edit", "create", "new", "--scale", "0", "--of", "quiet", "--atlas"),
    ("edit", "rm", "quiet", "--atlas"),
    ("db", "compact", "--atlas"),
    ("db", "rebuild", "--atlas"),
    INDEX,
)


@pytest.fixture
def read_only(world_once: Path) -> Iterator[Path]:
    """An atlas that belongs to another user, where everybody may read: pytest's own folders are closed."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    home = Path(tempfile.mkdtemp(prefix="read-only-", dir="/tmp"))
    home.chmod(0o755)
    path = Path(shutil.copytree(world_once, home / "x.atlas"))
    for place in (path, *path.rglob("*")):
        place.chmod(0o755 if place.is_dir() else 0o644)
    yield path
    shutil.rmtree(home)


def test_a_folder_that_may_only_be_read(read_only: Path, nursery: Nursery, operations: Operations) -> None:
    before = (contents(read_only), files(read_only))
    for command in READING:
        nursery.good(*command, read_only, user=NOBODY)
    removing = ("runs", "rm", operations.scored, "--yes", "--atlas")
    saving = ("select", "save", "new", *DOG, "--atlas")
    for command in (*WRITING, removing, saving, ("db", "backup", "--atlas")):
        done = nursery.run(*command, read_only, user=NOBODY)
        assert done.code == 3 and "cannot write the atlas" in done.err and "internal" not in done.err, (command, done)
    assert (contents(read_only), files(read_only)) == before
    nursery.good(*WRITING[0], read_only)  # by whom it belongs to


def test_two_writers(world: Path, nursery: Nursery, operations: Operations) -> None:
    """The second is told so at once, and the first is unharmed."""
    there = files(world)
    with engine.connect_writer(world) as connection:
        connection.exec_driver_sql("UPDATE models SET revision = 'mine'")
        for command in (*WRITING, ("runs", "rm", operations.scored, "--yes", "--atlas"), *READING):
            done = nursery.run(*command, world)
            assert done.code == 3 and f"process {os.getpid()} is writing" in done.err, (command, done)
        connection.exec_driver_sql("UPDATE models SET revision = NULL")
    assert files(world) == there and check(world) == []
    assert contents(world) == contents(operations.world)


def test_writing_while_another_reads(world: Path, nursery: Nursery, operations: Operations) -> None:
    there = files(world)
    with engine.connect_readonly(world) as connection:
        for command in WRITING[:-1]:  # a job, as the last one is, waits a minute for readers
            done = nursery.run(*command, world)
            assert done.code == 3 and f"process {os.getpid()} is reading" in done.err, (command, done)
        for command in READING:
            nursery.good(*command, world)
        assert connection.exec_driver_sql("SELECT count(*) FROM scores").scalar_one() > 0
    assert files(world) == there and contents(world) == contents(operations.world)


def test_a_clock_that_went_back(world: Path, nursery: Nursery, ingesting: tuple[str, ...]) -> None:
    """The run that says it finished last answers, whichever was stored last; a rebuild answers the same."""
    nursery.good(*ingesting, world, "--seed", "1", clock=-86400 * 400)
    nursery.good(*ingesting, world, "--seed", "2", clock=86400 * 400)
    with engine.connect_readonly(world) as connection:
        query = "SELECT (job->'seed')::INTEGER, run_id, finished_at FROM runs WHERE kind = 'ingest'"
        runs = {seed: (run, moment) for seed, run, moment in connection.exec_driver_sql(query)}
    assert runs[1][1] < runs[0][1] < runs[2][1]
    assert check(world) == []
    first = nursery.good(*QUERY, world)
    assert f"run={runs[2][0][:8]} (the newest of 3" in first.err
    rebuild(world)
    assert check(world) == []
    second = nursery.good(*QUERY, world)
    assert (second.out, second.err) == (first.out, first.err)
    again = nursery.good(*ingesting, world, "--seed", "2")
    assert "was done before" in again.err


def test_backups_at_one_moment_do_not_overwrite_each_other(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fixed = backup.datetime(2026, 1, 2, 3, 4, 5)

    class Stopped(backup.datetime):  # type: ignore[misc, valid-type]
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return fixed

    monkeypatch.setattr(backup, "datetime", Stopped)
    made = [backup.backup(world) for _ in range(3)]
    with engine.connect_writer(world) as connection:
        connection.exec_driver_sql("DELETE FROM changes")
    done = rebuild(world)
    assert done.old is not None and len({*made, done.old}) == 4
    assert made == sorted(made) and len({f.read_bytes() for f in made}) == 1
