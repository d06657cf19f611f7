"""The owner's SQL: what it answers, and every way out of the database refused."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pyarrow as pa
import pytest

from atlas import Atlas
from atlas.api.user_sql import answered, run_sql
from atlas.errors import AtlasError, StoreUnavailable, UsageError
from atlas.store.database import literal, open_readonly


def test_a_statement_is_answered_with_as_many_rows_as_asked(filled: Path) -> None:
    found = run_sql(filled, "SELECT map_id, count(*) AS n FROM scores GROUP BY ALL ORDER BY ALL;")
    assert found.rows.to_pylist() == [{"map_id": i, "n": 16} for i in range(1, 7)] and not found.more
    for rows, more in ((1, True), (5, True), (6, False), (7, False)):
        found = run_sql(filled, "FROM maps", limit=rows)
        assert (found.rows.num_rows, found.more) == (min(rows, 6), more)
    empty = run_sql(filled, "SELECT * FROM labels WHERE false")
    assert empty.rows.num_rows == 0 and "label" in empty.rows.column_names
    assert "map_id" in str(run_sql(filled, "DESCRIBE scores").rows.to_pylist())
    assert run_sql(filled, "SELECT * FROM range(1e9::BIGINT)", limit=3).more


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file beside the atlas in every form that DuckDB reads."""
    folder = tmp_path / "secret"
    folder.mkdir()
    import duckdb

    (folder / "x.csv").write_text("a\nsecret\n")
    (folder / "x.json").write_text('{"a": "secret"}')
    (folder / "x.txt").write_text("secret")
    with duckdb.connect(str(folder / "x.duckdb")) as other:
        other.execute("CREATE TABLE t AS SELECT 'secret' AS a")
        other.execute(f"COPY t TO {literal(folder / 'x.parquet')}")
    return folder


READS = [
    "SELECT * FROM 'DIR/x.csv'",
    'SELECT * FROM "DIR/x.parquet"',
    "SELECT * FROM read_csv('DIR/x.csv')",
    "SELECT * FROM read_csv_auto('DIR/*.csv')",
    "SELECT * FROM sniff_csv('DIR/x.csv')",
    "SELECT * FROM read_json('DIR/x.json')",
    "SELECT * FROM read_json_objects('DIR/x.json')",
    "SELECT * FROM read_ndjson('DIR/x.json')",
    "SELECT * FROM read_parquet('DIR/x.parquet')",
    "SELECT * FROM read_parquet(['DIR/x.parquet'])",
    "SELECT * FROM parquet_scan('DIR/x.parquet')",
    "SELECT * FROM parquet_metadata('DIR/x.parquet')",
    "SELECT * FROM parquet_schema('DIR/x.parquet')",
    "SELECT * FROM parquet_kv_metadata('DIR/x.parquet')",
    "SELECT * FROM parquet_file_metadata('DIR/x.parquet')",
    "SELECT * FROM read_text('DIR/x.txt')",
    "SELECT * FROM read_blob('DIR/x.txt')",
    "SELECT * FROM read_blob('/etc/passwd')",
    "SELECT * FROM read_text('ATLAS/runs/*/manifest.json')",
    "SELECT * FROM read_parquet('ATLAS/runs/*/scores.parquet')",
    "SELECT * FROM read_text('runs/../../secret/x.txt')",
    "SELECT * FROM glob('DIR/*')",
    "SELECT * FROM glob('/*')",
    "SELECT * FROM query('SELECT * FROM read_text(''DIR/x.txt'')')",
    "SELECT * FROM query_table('DIR/x.csv')",
    "WITH t AS (SELECT * FROM read_text('DIR/x.txt')) SELECT * FROM t",
    "SELECT (SELECT content FROM read_text('DIR/x.txt'))",
    "FROM duckdb_secrets() SELECT secret_string UNION ALL SELECT content FROM read_text('DIR/x.txt')",
    # The network.
    "SELECT * FROM 'http://127.0.0.1:9/x.csv'",
    "SELECT * FROM read_parquet('s3://bucket/x.parquet')",
    "SELECT * FROM read_csv('https://127.0.0.1:9/x.csv')",
    "SELECT * FROM 'hf://datasets/a/b/x.parquet'",
    # Other databases.
    "SELECT * FROM sqlite_scan('DIR/x.duckdb', 't')",
    "SELECT * FROM postgres_scan('host=127.0.0.1', 'public', 't')",
    "SELECT * FROM iceberg_scan('DIR')",
    "SELECT * FROM delta_scan('DIR')",
    "SELECT * FROM st_read('DIR/x.txt')",
    # Names in this process.
    "SELECT * FROM secret_table",
    "SELECT * FROM secret_frame",
    "SELECT * FROM os",
    "SELECT getenv('HOME')",
]
CHANGES = [
    "ATTACH 'DIR/x.duckdb' AS x",
    "ATTACH ':memory:' AS x",
    "DETACH atlas",
    "USE atlas",
    "COPY maps TO 'DIR/out.csv'",
    "COPY (SELECT 1) TO 'DIR/out.parquet'",
    "COPY maps FROM 'DIR/x.csv'",
    "EXPORT DATABASE 'DIR/out'",
    "IMPORT DATABASE 'DIR'",
    "INSTALL httpfs",
    "LOAD httpfs",
    "LOAD 'DIR/x.so'",
    "FORCE INSTALL httpfs FROM 'http://127.0.0.1:9'",
    "SET enable_external_access = true",
    "SET lock_configuration = false",
    "SET GLOBAL memory_limit = '99GB'",
    "SET VARIABLE a = 1",
    "RESET enable_external_access",
    "PRAGMA enable_external_access",
    "PRAGMA database_list",
    "CALL pragma_version()",
    "CALL enable_logging(storage_path = 'DIR/log')",
    "CREATE TABLE t AS SELECT 1",
    "CREATE TEMP TABLE t AS SELECT 1",
    "CREATE VIEW t AS SELECT 1",
    "CREATE MACRO m() AS 1",
    "CREATE SECRET s (TYPE s3)",
    "CREATE OR REPLACE FUNCTION f() AS 1",
    "INSERT INTO maps SELECT * FROM maps",
    "UPDATE maps SET method = 'x'",
    "DELETE FROM scores",
    "TRUNCATE scores",
    "DROP TABLE scores",
    "ALTER TABLE scores ADD COLUMN x INTEGER",
    "MERGE INTO maps USING maps AS o ON false WHEN MATCHED THEN DELETE",
    "VACUUM",
    "CHECKPOINT",
    "FORCE CHECKPOINT",
    "BEGIN",
    "COMMIT",
    "PREPARE p AS SELECT 1",
    "EXECUTE p",
    "DEALLOCATE p",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO 'DIR/out.csv'",
    "EXPLAIN SELECT 1",
    "SELECT 1; SELECT 2",
    "SELECT 1; ATTACH 'DIR/x.duckdb' AS x",
    "/* SELECT */ ATTACH 'DIR/x.duckdb' AS x",
    "",
    ";",
    "-- nothing",
    "SELECT 1\0",
    "\ud800",
    "SELEC 1",
    "SELECT * FROM nothing",
    "SELECT 'x'::INTEGER",
    "SELECT error('x')",
]


@pytest.mark.parametrize("statement", [*READS, *CHANGES])
def test_every_way_out_is_refused(statement: str, filled: Path, secret: Path) -> None:
    secret_table, secret_frame = pa.table({"a": ["secret"]}), pa.table({"a": ["secret"]}).to_pandas()
    assert len(secret_table) == len(secret_frame) == 1  # what a replacement scan would find here
    before = {f: f.read_bytes() for f in (*filled.rglob("*"), *secret.rglob("*")) if f.is_file()}
    text = statement.replace("DIR", str(secret)).replace("ATLAS", str(filled))
    with open_readonly(filled) as connection:
        with pytest.raises(UsageError) as caught:
            answered(connection, text, rows=10)
        assert answered(connection, "SELECT count(*) AS n FROM maps", rows=10).rows.to_pylist() == [{"n": 6}]
    assert "secret\n" not in str(caught.value) and len(str(caught.value)) < 600
    assert {f: f.read_bytes() for f in (*filled.rglob("*"), *secret.rglob("*")) if f.is_file()} == before


def test_settings_that_lock_a_reader_are_read_back(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from atlas.store import database

    with open_readonly(filled) as connection:
        settings = dict(connection.execute("SELECT name, value FROM duckdb_settings()").fetchall())
    for name, value in database._LOCKED_DOWN.items():
        assert settings[name] == (str(value).lower() if isinstance(value, bool) else value)
    spill = settings["temp_directory"]  # its own, which DuckDB adds itself
    own = settings["allowed_paths"].strip("[]").split(", ")  # the database that is open, and its log
    assert settings["allowed_directories"] == f"[{spill}/]"
    assert all(file.startswith(str(database.database_file(filled))) for file in own)
    assert not list(Path(spill).iterdir())
    monkeypatch.setitem(database._LOCKED_DOWN, "threads", "12345")  # as if DuckDB had taken no notice of a setting
    with pytest.raises(StoreUnavailable, match="does not accept the read-only settings threads"), open_readonly(filled):
        pass


@pytest.mark.parametrize("after", [0.05, 0.1, 0.2, 0.3, 0.5])
def test_ctrl_c_is_noticed_and_not_taken_for_the_clock(after: float, filled: Path) -> None:
    endless = "SELECT count(*) FROM range(1000000000000) AS t(i) WHERE i % 7 = 3"
    threads = threading.active_count()
    pressed = threading.Timer(after, os.kill, (os.getpid(), signal.SIGINT))
    pressed.start()
    with pytest.raises(KeyboardInterrupt):
        run_sql(filled, endless, timeout=30)
    pressed.join()
    assert threading.active_count() == threads
    with pytest.raises(UsageError, match="interrupted"):  # a word in a refused statement is not an interruption
        run_sql(filled, "SELECT interrupted FROM maps")


def test_time_is_bounded_where_many_files_are_open(filled: Path) -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] != resource.RLIM_INFINITY and before[1] < 2048:
        pytest.skip("this machine allows no more open files")
    with ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, before)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(before[0], 2048), before[1]))
        for _ in range(1100):
            stack.enter_context(Path(os.devnull).open())
        with pytest.raises(AtlasError, match="took longer than 0.3 s; a larger timeout"):
            run_sql(filled, "SELECT count(*) FROM range(1000000000000) AS t(i) WHERE i % 7 = 3", timeout=0.3)


def test_time_and_memory_are_bounded(filled: Path) -> None:
    endless = "SELECT count(*) FROM range(1000000000000) AS t(i) WHERE i % 7 = 3"
    with pytest.raises(AtlasError, match="took longer than 0.3 s; a larger timeout"):
        run_sql(filled, endless, timeout=0.3)
    with pytest.raises(AtlasError, match="more memory than a reader has|took longer"):
        run_sql(filled, "SELECT list(i) FROM range(3000000000) AS t(i)", timeout=20)
    started = time.monotonic()
    with pytest.raises(AtlasError, match="more memory than a reader has|more than 512 MiB|took longer than 2 s"):
        run_sql(filled, "SELECT repeat('x', 3000000000)", timeout=2)
    assert time.monotonic() - started < 12  # the machine may be slow to start a process, the statement takes a minute
    with pytest.raises(AtlasError, match="the answer has more than 512 MiB"):
        run_sql(filled, "SELECT repeat('x', 10000000) FROM range(100)")
    for wrong in ({"limit": 0}, {"timeout": 0}):
        with pytest.raises(UsageError, match="at least 1"):
            run_sql(filled, "SELECT 1", **wrong)


def test_an_atlas_answers_a_statement(filled: Path) -> None:
    answer = Atlas.open(filled).sql("FROM maps ORDER BY map_id", limit=1)
    assert len(answer) == 1 and answer.facts == {"truncated": True} and "larger" in answer.notes[0]
    assert Atlas.open(filled).sql("SELECT 1 AS one").to_pylist() == [{"one": 1}]
