"""One atlas asked and written by several threads, and by several processes: real ones."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from atlas import Atlas
from atlas.edits import kinds
from atlas.errors import StoreUnavailable
from atlas.maintain.check import check
from atlas.store import database, engine
from atlas.store.locks import ASK, WRITE, database_lock

REPOSITORY = Path(__file__).resolve().parents[2]
THREADS, EACH = 4, 5


def at_once(*work: Callable[[], Any]) -> list[Any]:
    """What each returns; all of them begin together."""
    start = threading.Barrier(len(work))

    def run(one: Callable[[], Any]) -> Any:
        start.wait()
        return one()

    with ThreadPoolExecutor(len(work)) as pool:
        return list(pool.map(run, work))


def test_threads_write_and_read_one_atlas(own_atlas: Path) -> None:
    atlas = Atlas.open(own_atlas)
    expected = atlas.query("dog", source="text", top=5)

    def write() -> list[str]:
        return [atlas.create_edit("no-dog", expected, kinds.ablate()).label for _ in range(EACH)]

    def read() -> list[list[str]]:
        found = []
        for _ in range(EACH):
            found.append([str(n) for n in atlas.query("dog", source="text", top=5).neurons])
            atlas.edits(), atlas.neuron("0/1"), check(own_atlas)
        return found

    labels, reads = [], []
    for number, found in enumerate(at_once(*(write, read) * (THREADS // 2), write, write)):
        (reads if number in (1, 3) else labels).extend(found)
    assert sorted(labels) == sorted(f"no-dog@{v}" for v in range(1, 4 * EACH + 1))
    assert reads == [[str(n) for n in expected.neurons]] * 2 * EACH
    assert {f.stem for f in (own_atlas / "edits").glob("*.json")} == set(labels)
    assert atlas.edits().table.num_rows == len(labels) and check(own_atlas) == []


def test_one_of_several_threads_saves_a_selection_of_a_name(own_atlas: Path) -> None:
    atlas = Atlas.open(own_atlas)
    found = atlas.query("dog", source="text", top=5)

    def save() -> str:
        try:
            return atlas.save_selection("dog", found).name
        except Exception as error:
            return type(error).__name__

    assert sorted(at_once(*[save] * THREADS)) == ["UsageError"] * (THREADS - 1) + ["dog"]


def test_a_waiting_writer_is_not_starved_by_readers(own_atlas: Path) -> None:
    atlas, done = Atlas.open(own_atlas), threading.Event()
    found = atlas.query("dog", source="text", top=5)

    def read() -> None:
        while not done.is_set():
            atlas.runs()

    def write() -> str:
        try:
            return atlas.create_edit("no-dog", found, kinds.ablate()).label
        finally:
            done.set()

    assert at_once(read, read, read, write)[-1] == "no-dog@1"


def test_a_thread_that_would_wait_for_itself_is_told(own_atlas: Path) -> None:
    file = database.database_file(own_atlas)
    with (
        database_lock(file, ASK),
        pytest.raises(StoreUnavailable, match="open in another mode"),
        engine.connect_writer(own_atlas),
    ):
        pass
    with database_lock(file, WRITE):  # what was refused holds nothing
        pass


def test_an_edit_that_was_not_stored_leaves_no_file(own_atlas: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    atlas = Atlas.open(own_atlas)
    found = atlas.query("dog", source="text", top=5)

    def broken(*given: Any) -> None:
        raise RuntimeError("planted")

    monkeypatch.setattr("atlas.edits.rows.load_edit", broken)
    with pytest.raises(RuntimeError, match="planted"):
        atlas.create_edit("no-dog", found, kinds.write_noise(0.1))
    assert list((own_atlas / "edits").iterdir()) == [] and check(own_atlas) == []


CREATE = """
import sys
from atlas import Atlas
from atlas.edits import kinds
atlas = Atlas.open(sys.argv[1])
found = atlas.query("dog", source="text", top=5)
print("ready", flush=True)
sys.stdin.readline()
for _ in range(3):
    print(atlas.create_edit("no-dog", found, kinds.ablate()).label, flush=True)
"""


def test_processes_wait_for_each_other(own_atlas: Path) -> None:
    command = [sys.executable, "-c", CREATE, str(own_atlas)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": REPOSITORY}
    both = [subprocess.Popen(command, **pipes) for _ in range(2)]
    assert [p.stdout.readline() for p in both if p.stdout] == ["ready\n"] * 2
    for process in both:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    labels = [line for process in both for line in process.communicate()[0].split()]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(labels) == [f"no-dog@{v}" for v in range(1, 7)] and check(own_atlas) == []
