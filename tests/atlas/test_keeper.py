"""An atlas that is kept open for questions, gives way to writers of other processes, and is closed when nobody asks."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from atlas.api.atlas import Atlas
from atlas.errors import StoreUnavailable
from atlas.store import database, waiting_writer
from atlas.store.database import open_readonly
from atlas.store.engine import connect_writer
from atlas.store.keeper import Keeper
from atlas.store.time_limit import TookTooLong, time_limit

WRITE = """
import sys, time
from pathlib import Path
from atlas.store.engine import connect_writer
import sqlalchemy as sa
with connect_writer(Path(sys.argv[1])) as connection:
    connection.execute(sa.text("UPDATE runs SET status = status"))
    print("written", flush=True)
    time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def keeper(own_atlas: Path) -> Iterator[Keeper]:
    keeper = Keeper(own_atlas, idle=0.4)
    yield keeper
    keeper.stop()


def writer(path: Path, seconds: float = 0.0) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITE, str(path), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def until(condition: object, seconds: float = 5.0) -> bool:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return bool(condition())


def test_it_is_open_while_questions_come_and_closed_after(keeper: Keeper, own_atlas: Path) -> None:
    assert not keeper.is_open
    with keeper.asking():
        assert len(Atlas(own_atlas).models())
        assert until(lambda: keeper.is_open)
    assert keeper.is_open, "for the next question"
    assert until(lambda: not keeper.is_open)
    with connect_writer(own_atlas):  # of this process too
        pass


def test_a_writer_gets_in_while_twenty_threads_ask_without_a_pause(keeper: Keeper, own_atlas: Path) -> None:
    stopped, failed, asked = threading.Event(), [], [0] * 20

    def ask(number: int) -> None:
        while not stopped.is_set():
            try:
                with keeper.asking():
                    assert len(Atlas(own_atlas).models()) == 1
                asked[number] += 1
            except BaseException as error:
                failed.append(error)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    assert until(lambda: keeper.is_open and sum(asked) > 20)
    try:
        for _ in range(3):
            written, error = writer(own_atlas).communicate(timeout=30)
            assert written == "written\n", error
        after = sum(asked)
        assert until(lambda: sum(asked) > after + 20), "and questions go on behind it"
    finally:
        stopped.set()
        for thread in threads:
            thread.join()
    assert not failed
    assert not (own_atlas / waiting_writer.NAME).exists()


def test_who_writes_longer_than_readers_wait_is_said(
    keeper: Keeper, own_atlas: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "PATIENCE", 0.2)
    process = writer(own_atlas, 20)
    try:
        assert process.stdout is not None and process.stdout.readline() == "written\n"
        with keeper.asking(), pytest.raises(StoreUnavailable, match=f"process {process.pid} is writing"):
            Atlas(own_atlas).models()
    finally:
        process.kill()
        process.communicate()
    with keeper.asking():
        assert len(Atlas(own_atlas).models()) == 1


def test_a_writer_that_was_killed_holds_nobody_up(keeper: Keeper, own_atlas: Path) -> None:
    file = own_atlas / waiting_writer.NAME
    file.touch()
    os.utime(file, (0, 0))
    assert not waiting_writer.writer_waits(own_atlas)
    started = time.monotonic()
    with keeper.asking():
        assert until(lambda: keeper.is_open)
    assert time.monotonic() - started < 2


def test_a_writer_of_this_process_has_its_turn_while_questions_come(keeper: Keeper, own_atlas: Path) -> None:
    over, asked, errors = threading.Event(), Counter[str](), list[BaseException]()

    def ask() -> None:
        while not over.is_set():
            try:
                with keeper.asking():
                    asked[str(len(Atlas(own_atlas).models()))] += 1
            except BaseException as error:
                errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert until(lambda: keeper.is_open and asked["1"] > 3)
    started = time.monotonic()
    for _ in range(3):
        with keeper.writing():
            assert not keeper.is_open
            with connect_writer(own_atlas) as connection:
                connection.execute(sa.text("UPDATE runs SET status = status"))
    took, before = time.monotonic() - started, asked["1"]
    assert until(lambda: asked["1"] > before + 3)
    over.set()
    for thread in threads:
        thread.join()
    assert took < 6 and not errors and {*asked} == {"1"}


SLOW = "SELECT count(*) FROM range(100000000000) a WHERE hash(a.range) = 3"


def test_a_question_that_takes_too_long_is_interrupted(own_atlas: Path) -> None:
    with time_limit(0.2), pytest.raises(TookTooLong, match="longer than 0.2 s"), open_readonly(own_atlas) as connection:
        connection.execute(SLOW).fetchall()
    with time_limit(0.05), pytest.raises(TookTooLong), open_readonly(own_atlas):
        time.sleep(0.1)  # in Python, where nothing can be interrupted
    with time_limit(30), open_readonly(own_atlas) as connection:
        assert connection.execute("SELECT 1").fetchall() == [(1,)]
    with open_readonly(own_atlas) as connection:
        assert connection.execute("SELECT 1").fetchall() == [(1,)], "without a limit, none is kept"
