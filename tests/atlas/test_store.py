"""The store: what is opened, locked, refused, stored and survived. Other processes are real ones."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pytest
import sqlalchemy as sa

from atlas.errors import IntegrityError, StoreUnavailable, UsageError
from atlas.maintain.check import check
from atlas.store import create, database, duckdb_errors, engine, run_loader, schema

REPOSITORY = Path(__file__).resolve().parents[2]


@contextmanager
def another_process(body: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A process that has run `body`, and holds what it opened until the block ends."""
    head = "import sys, time\nfrom pathlib import Path\nfrom atlas.store import engine\npath = Path(sys.argv[1])"
    code = f"{head}\n{body}\n"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


HOLD = "with engine.connect_{mode}(path) as c:\n    print('ready', flush=True)\n    time.sleep(60)"
IN_PIECES = """
with engine.connect_writer(path) as c:
    c.exec_driver_sql("INSERT INTO labels SELECT 'r', 'language', 0, i, 'x', 'y', 0 FROM range(300000) AS r(i)")
    c.exec_driver_sql("CREATE TABLE half (x INTEGER)")
    print('ready', flush=True)
    time.sleep(60)
"""


# Opening


def test_init_makes_the_folder_and_is_repeatable(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "an atlas.atlas"
    assert create.init(path)
    assert sorted(child.name for child in path.iterdir()) == ["atlas.duckdb", "edits", "runs", "vectors"]
    assert not create.init(path)
    with engine.connect_readonly(path) as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(schema.scores)).scalar() == 0


def test_init_finishes_what_an_interrupted_init_left(tmp_path: Path) -> None:
    path = tmp_path / "x.atlas"
    path.mkdir()
    duckdb.connect(str(database.database_file(path))).close()
    assert create.init(path)
    with engine.connect_readonly(path):
        pass


@pytest.mark.parametrize("name", ["wh?t", "a*b", "[ab]c", "\udcff"])
def test_a_folder_whose_name_stands_for_others_is_refused(name: str, tmp_path: Path) -> None:
    """DuckDB would read `axb` for `a*b`, and takes `?` for a URL's query."""
    path = tmp_path / name / "x.atlas"
    with pytest.raises(UsageError, match="in its path, which DuckDB reads as a pattern|is not valid UTF-8"):
        create.init(path)
    assert list(tmp_path.iterdir()) == []
    path.mkdir(parents=True)
    (path / "atlas.duckdb").touch()
    with pytest.raises(UsageError), database.open_readonly(path):
        pass


@pytest.mark.parametrize("name", ["Köder 犬", "it's", "a b#%20;$HOME", "a\nb"])
def test_any_other_name_will_do(name: str, tmp_path: Path, make_run: Any) -> None:
    path = tmp_path / f"{name}.atlas"
    create.init(path)
    with engine.connect_writer(path) as connection:
        run_loader.load_run(connection, make_run(1).write(path))
    assert check(path) == []


def test_init_refuses_a_database_that_is_no_atlas(tmp_path: Path) -> None:
    path = tmp_path / "x.atlas"
    path.mkdir()
    with duckdb.connect(str(database.database_file(path))) as connection:
        connection.execute("CREATE TABLE mine AS SELECT 1 AS x")
    with pytest.raises(StoreUnavailable, match="has no atlas schema"):
        create.init(path)


def test_init_on_a_file_or_an_unwritable_place(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_text("mine")
    with pytest.raises(StoreUnavailable, match="is a file; an atlas is a folder"):
        create.init(file)
    with pytest.raises(StoreUnavailable, match="cannot write the atlas"):
        create.init(file / "below")
    assert file.read_text() == "mine"


def test_a_missing_atlas_says_what_to_type(tmp_path: Path) -> None:
    for attempt in (engine.connect_readonly, engine.connect_writer):
        said = r"no atlas at .*none; `atlas init --atlas .*none`"
        with pytest.raises(StoreUnavailable, match=said) as caught, attempt(tmp_path / "none"):
            pass
        assert caught.value.exit_code == 3
    assert list(tmp_path.iterdir()) == []


def test_a_lost_database_with_runs_is_not_replaced_by_an_empty_one(filled: Path) -> None:
    database.database_file(filled).unlink()
    for attempt in (lambda: engine.connect_readonly(filled).__enter__(), lambda: create.init(filled)):
        with pytest.raises(StoreUnavailable, match="has runs but no database; `atlas db rebuild"):
            attempt()


def test_a_log_without_its_database_is_not_deleted(empty: Path, kill_after_commit: Any) -> None:
    kill_after_commit(empty, "INSERT INTO scores VALUES (1, 0, 0, 0, 1)")
    database.database_file(empty).unlink()
    with pytest.raises(StoreUnavailable, match="log of a database that is gone"):
        create.init(empty)
    assert database.wal(empty).stat().st_size


def test_a_reader_can_do_nothing_but_read(filled: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    refused = [
        "DELETE FROM scores",
        f"SELECT * FROM read_csv('{secret}')",
        f"SELECT * FROM '{filled}/runs/../../secret.csv'",
        f"COPY scores TO '{tmp_path}/out.csv'",
        f"ATTACH '{tmp_path}/other.duckdb'",
        "SET threads = 1",
        "SET enable_external_access = true",
        "INSTALL vss",
    ]
    for statement in refused:
        with engine.connect_readonly(filled) as connection, pytest.raises(sa.exc.DBAPIError):
            connection.exec_driver_sql(statement).all()
    assert not (tmp_path / "out.csv").exists()
    with engine.connect_readonly(filled) as connection:
        settings = dict(map(tuple, connection.exec_driver_sql("SELECT name, value FROM duckdb_settings()")))
    assert settings["enable_external_access"] == "false"
    assert settings["lock_configuration"] == "true"
    assert settings["memory_limit"] == "4.0 GiB"


def test_a_setting_that_does_not_take_is_noticed(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(database.READER_CONFIG, "memory_limit", "1GiB")
    with pytest.raises(StoreUnavailable, match="memory_limit"), engine.connect_readonly(filled):
        pass


def test_several_readers_in_one_process_and_in_two(filled: Path) -> None:
    query = "SELECT count(*) FROM scores"
    with (
        another_process(HOLD.format(mode="readonly"), filled),
        engine.connect_readonly(filled) as one,
        engine.connect_readonly(filled) as two,
    ):
        assert one.exec_driver_sql(query).scalar() == two.exec_driver_sql(query).scalar() == 96


def test_a_reader_spills_outside_the_atlas(filled: Path) -> None:
    with engine.connect_readonly(filled) as connection:
        folder = connection.exec_driver_sql("SELECT current_setting('temp_directory')").scalar_one()
    assert not Path(folder).is_relative_to(filled)
    assert Path(folder).stat().st_mode & 0o077 == 0


# Locks


@pytest.mark.parametrize("attempt", [engine.connect_readonly, engine.connect_writer])
def test_while_another_process_writes(filled: Path, attempt: Any) -> None:
    with another_process(HOLD.format(mode="writer"), filled) as writer:
        said = rf"process {writer.pid} is writing .*try again"
        with pytest.raises(StoreUnavailable, match=said) as caught, attempt(filled):
            pass
    assert caught.value.exit_code == 3
    with attempt(filled):
        pass


def test_writing_while_another_process_reads(filled: Path) -> None:
    with another_process(HOLD.format(mode="readonly"), filled) as reader:
        said = rf"process {reader.pid} is reading .*close it"
        with pytest.raises(StoreUnavailable, match=said), engine.connect_writer(filled):
            pass


def test_reading_while_this_process_writes(filled: Path) -> None:
    said = "open in another mode"
    with engine.connect_writer(filled), pytest.raises(StoreUnavailable, match=said), engine.connect_readonly(filled):
        pass


def test_a_read_only_folder(make_run: Any) -> None:
    """As root, by becoming nobody: root may write anywhere."""
    home = Path(tempfile.mkdtemp(prefix="readonly-", dir="/tmp"))
    root = os.geteuid() == 0
    try:
        home.chmod(0o755)
        path = home / "x.atlas"
        create.init(path)
        for folder in (path, *path.iterdir()):
            folder.chmod(0o555 if folder.is_dir() else 0o444)
        database._spill_folder.cache_clear()
        if root:
            os.seteuid(65534)
        with engine.connect_readonly(path) as connection:
            assert connection.exec_driver_sql("SELECT count(*) FROM scores").scalar() == 0
        with pytest.raises(StoreUnavailable, match="read-only for this user") as caught, engine.connect_writer(path):
            pass
        assert caught.value.exit_code == 3
        with pytest.raises(StoreUnavailable, match="cannot write the atlas"):
            create.init(path / "below")
    finally:
        if root:
            os.seteuid(0)
        database._spill_folder.cache_clear()
        for folder in (home / "x.atlas", *(home / "x.atlas").iterdir()):
            folder.chmod(0o755)
        shutil.rmtree(home)


# Damage


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5])
def test_a_truncated_database(filled: Path, share: float) -> None:
    with engine.connect_writer(filled) as connection:
        connection.exec_driver_sql("INSERT INTO scores SELECT i, 0, i, random(), i FROM range(500000) AS r(i)")
    whole = database.database_file(filled).read_bytes()
    cut = whole[: int(len(whole) * share)]
    database.database_file(filled).write_bytes(cut)
    for attempt in (engine.connect_readonly, engine.connect_writer):
        said = r"is damaged .*nothing was deleted: `atlas db rebuild"
        with pytest.raises(IntegrityError, match=said) as caught, attempt(filled) as connection:
            connection.exec_driver_sql("SELECT sum(score), sum(neuron) FROM scores").all()
        assert caught.value.exit_code == 4
    assert database.database_file(filled).read_bytes() == cut


def test_flipped_bytes_in_the_database(filled: Path) -> None:
    with engine.connect_writer(filled) as connection:
        connection.exec_driver_sql("INSERT INTO scores SELECT i, 0, i, random(), i FROM range(500000) AS r(i)")
    data = bytearray(database.database_file(filled).read_bytes())
    for place in range(100_000, len(data), 50_000):
        data[place] ^= 255
    database.database_file(filled).write_bytes(data)
    with pytest.raises(IntegrityError, match="is damaged"), engine.connect_readonly(filled) as connection:
        connection.exec_driver_sql("SELECT sum(score), sum(neuron) FROM scores").all()


def test_a_damaged_log_is_reported_and_kept(filled: Path, kill_after_commit: Any) -> None:
    kill_after_commit(filled, "INSERT INTO scores SELECT 99, 0, i, 0, i FROM range(10000) AS r(i)")
    log = bytearray(database.wal(filled).read_bytes())
    for place in range(200, len(log), 50):
        log[place] ^= 255
    database.wal(filled).write_bytes(log)
    for attempt in (engine.connect_readonly, engine.connect_writer):
        with pytest.raises(IntegrityError, match="is damaged"), attempt(filled):
            pass
    assert database.wal(filled).read_bytes() == log


def test_killed_while_loading_nothing_of_it_is_there(filled: Path, dump: Any) -> None:
    before = dump(filled)
    with another_process(IN_PIECES, filled) as writer:
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
    assert dump(filled) == before
    with engine.connect_writer(filled) as connection:
        assert (
            connection.exec_driver_sql("SELECT count(*) FROM duckdb_tables() WHERE table_name = 'half'").scalar() == 0
        )


def test_killed_at_any_moment_of_loading_a_run(empty: Path, make_run: Any, dump: Any) -> None:
    """All of the run or nothing of it, whenever the kill comes."""
    run = make_run(3)
    folder = run.write(empty)
    body = (
        "print('ready', flush=True)\nfrom atlas.store import run_loader\nwith engine.connect_writer(path) as c:\n    "
    )
    body += "run_loader.load_run(c, Path(sys.argv[2]))"
    counts = set()
    for delay in (0.0, 0.05, 0.1, 0.2, 0.4, 2.0):
        with another_process(body, empty, folder) as loader:
            time.sleep(delay)
            os.kill(loader.pid, signal.SIGKILL)
            loader.wait()
        stored = dump(empty)
        counts.add((len(stored["scores"]), len(stored["maps"]), len(stored["runs"]), len(stored["examples"])))
    assert counts <= {(0, 0, 0, 0), (48, 3, 1, 1)}
    with engine.connect_writer(empty) as connection:
        run_loader.load_run(connection, folder)
    assert len(dump(empty)["scores"]) == 48


def test_an_error_in_the_block_stores_nothing(filled: Path, dump: Any) -> None:
    before = dump(filled)
    with pytest.raises(ZeroDivisionError), engine.connect_writer(filled) as connection:
        connection.exec_driver_sql("DELETE FROM scores")
        raise ZeroDivisionError
    with pytest.raises(KeyboardInterrupt), engine.connect_writer(filled) as connection:
        connection.exec_driver_sql("DELETE FROM maps")
        raise KeyboardInterrupt
    assert dump(filled) == before


def test_ctrl_c_during_a_query_is_an_interrupt_and_stores_nothing(filled: Path, dump: Any) -> None:
    before = dump(filled)
    # With one thread: else DuckDB may hand all of the query to a thread that no signal reaches.
    body = (
        "import os, signal, threading\n"
        "threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()\n"
        "print('ready', flush=True)\n"
        "try:\n"
        "    with engine.connect_writer(path) as c:\n"
        "        c.exec_driver_sql('SET threads = 1')\n"
        "        c.exec_driver_sql('DELETE FROM scores')\n"
        "        c.exec_driver_sql('SELECT count(*) FROM range(100000000000) AS r(i) WHERE hash(i) % 7 = 3').all()\n"
        "except KeyboardInterrupt:\n"
        "    sys.exit(130)"
    )
    with another_process(body, filled) as process:
        assert process.wait(timeout=60) == 130
    assert dump(filled) == before


@pytest.mark.parametrize(
    ("said", "kind", "match"),
    [
        ("IO Error: Could not write file: No space left on device", StoreUnavailable, "is full"),
        ("Trying to read a database file with version number 99", StoreUnavailable, "newer DuckDB"),
        ("Cannot open file: Permission denied", StoreUnavailable, "read-only for this user"),
        ("Failure while replaying WAL file", IntegrityError, "damaged"),
    ],
)
def test_what_duckdb_says_is_explained(tmp_path: Path, said: str, kind: type[Exception], match: str) -> None:
    with pytest.raises(kind, match=match), duckdb_errors.translate_duckdb_errors(tmp_path, read_only=False):
        raise duckdb.IOException(said)


def test_other_errors_pass_unchanged(filled: Path) -> None:
    with pytest.raises(sa.exc.ProgrammingError, match="nonsense"), engine.connect_readonly(filled) as connection:
        connection.exec_driver_sql("SELECT nonsense")


# Light


def test_opening_imports_neither_alembic_nor_torch(filled: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom atlas.store import engine\n"
        "with engine.connect_readonly(Path(sys.argv[1])) as c:\n    c.exec_driver_sql('SELECT 1').all()\n"
        "print(sorted({'alembic', 'torch', 'transformers', 'pandas', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(filled)], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
