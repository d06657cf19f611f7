"""Migrations: the same database as the schema, upgrades that keep rows, backups, refusals."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from safetensors.numpy import save_file
from sqlalchemy import Connection
from sqlalchemy.pool import NullPool

from atlas import Atlas
from atlas.edits.edit import Change, Intervention
from atlas.errors import StoreUnavailable
from atlas.maintain import upgrade
from atlas.maintain.check import check
from atlas.maintain.rebuild import rebuild
from atlas.neurons import Neuron
from atlas.store import backup, database, migrations, schema
from atlas.store import engine as store_engine
from atlas.store.atomic import sha256

RELEASED = ("0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008")
"""Every revision that a user may have. A new one is added here with rows for it in `some_rows`."""

NEXT = f"{int(RELEASED[-1]) + 1:04}"

SHAPE = {
    "columns": "SELECT table_name, column_index, column_name, data_type, is_nullable, column_default, comment"
    " FROM duckdb_columns() WHERE NOT internal AND table_name <> 'alembic_version' ORDER BY ALL",
    "constraints": "SELECT table_name, constraint_type, constraint_column_names, expression"
    " FROM duckdb_constraints() WHERE table_name <> 'alembic_version' ORDER BY ALL",
    "indexes": "SELECT table_name, index_name, is_unique, expressions FROM duckdb_indexes() ORDER BY ALL",
    "tables": "SELECT table_name, comment FROM duckdb_tables() WHERE table_name <> 'alembic_version' ORDER BY ALL",
}


def shape(connection: Connection) -> dict[str, list[Any]]:
    return {name: list(connection.exec_driver_sql(query).all()) for name, query in SHAPE.items()}


@contextmanager
def memory() -> Iterator[Connection]:
    engine = sa.create_engine("duckdb:///:memory:", poolclass=NullPool)
    try:
        with engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()


def some_rows(connection: Connection, revision: str) -> dict[str, list[Any]]:
    """Put rows into a database of a released revision, and say what must be there after any upgrade."""
    assert revision in RELEASED
    model = "(1, 'tiny', NULL, 'f', 'llava', 2, 8, 4, 32, '2026-01-01')"
    connection.exec_driver_sql(f"INSERT INTO models VALUES {model}")
    connection.exec_driver_sql("INSERT INTO concepts VALUES (1, 1, 'dog', NULL, 18, ['dog', 'dogs'])")
    # Best first, as maps were stored before 0004: the best neuron is the last.
    connection.exec_driver_sql("INSERT INTO scores SELECT 1, 0, 7 - i, 9 - i, i + 1 FROM range(8) AS r(i)")
    of_map = "1, 'r', 1, 1, 'contribution', 'image', 'text', 'language', 'mean', 'product', '{}', 1, 8, 5.5, 2"
    connection.exec_driver_sql(f"INSERT INTO maps VALUES ({of_map}{', 6' if revision >= '0004' else ''})")
    wanted: dict[str, list[Any]] = {"SELECT method, neurons FROM maps": [("contribution", 8)]}
    if revision >= "0004":
        connection.exec_driver_sql("INSERT INTO sketches VALUES (1, 8, 2)")
        connection.exec_driver_sql("INSERT INTO vectors VALUES ('r', 'language', 1, 3, [0.5, -1])")
        connection.exec_driver_sql("INSERT INTO indexes VALUES ('r', 'flat', 1, 2, 'c', 5000000000, 's', 'now')")
        wanted["SELECT kept FROM maps"] = [(6,)]
        wanted["SELECT rank, score FROM sketches"] = [(8, 2.0)]
        wanted["SELECT neuron, vector FROM vectors"] = [(3, [0.5, -1.0])]
        wanted["SELECT kind, bytes FROM indexes"] = [("flat", 5_000_000_000)]
    if revision >= "0002":
        measure = "('r', 'linear_cka', NULL, NULL, 'image', 3, 'text', 'image', 'before', 0.5, NULL, NULL, 12)"
        connection.exec_driver_sql(f"INSERT INTO measures VALUES {measure}")
        condition = ", 'before'" if revision >= "0008" else ""
        connection.exec_driver_sql(f"INSERT INTO points VALUES ('r', 'pca', 3, 'e', 7, 'image', 0.25, -1{condition})")
        wanted["SELECT name, layer, first, value, low FROM measures"] = [("linear_cka", 3, "text", 0.5, None)]
        wanted["SELECT example_id, role, x, y, condition FROM points"] = [("e", "image", 0.25, -1.0, "before")]
    named = "'plain', 'norm'" if revision >= "0007" else "false, true"
    connection.exec_driver_sql(
        f"INSERT INTO decodings SELECT 1, 'language', 1, 3, unnest([{named}]), 'top', [' dog'], [7], [1.5]"
    )
    _some_effects(connection, revision)
    wanted["SELECT edit, value FROM effects ORDER BY edit"] = [(edit, 0.5) for edit, *_ in sorted(ABLATED)]
    if revision >= "0003":
        edit = "(1, 'no-dog', 2, 1, 'f', 'gate', 'dog', '{}', 1, 's', '2026-01-01', 'word_swap', 'mine')"
        connection.exec_driver_sql(f"INSERT INTO edits VALUES {edit}")
        change = "(1, 'language', 1, 3, 0.5, -1, 'role=image', 0, 0.25)"
        connection.exec_driver_sql(f"INSERT INTO changes VALUES {change}")
        wanted["SELECT name, version, solver, note FROM edits"] = [("no-dog", 2, "word_swap", "mine")]
        wanted['SELECT neuron, gain, "where", write, noise FROM changes'] = [(3, 0.5, "role=image", 0, 0.25)]
    return wanted | {
        "SELECT model_id, name, fingerprint, width FROM models": [(1, "tiny", "f", 8)],
        "SELECT name, forms FROM concepts": [("dog", ["dog", "dogs"])],
        "SELECT count(*), sum(score), max(rank) FROM scores": [(8, 44.0, 8)],
    }


ABLATED = [
    ("contribution:40:mean:dog", "contribution", "40", "mean", "text"),
    ("nam_image[image]:0.5%:contrast:dog", "nam_image", "0.5%", "contrast", "image"),
    ("no-dog@2", None, None, None, None),
]
"""Effects of two methods' best neurons and of a stored edit; before 0006 the label alone says which."""


def _some_effects(connection: Connection, revision: str) -> None:
    for edit, *told in ABLATED:
        values = ["r", edit, "dog", "text", "*", "concept", "edit", "accuracy", 0.5, None, None, 4, 1]
        values += [4, 4.0] if revision >= "0005" else []
        values += told if revision >= "0006" else []
        row = ", ".join("NULL" if v is None else repr(v) for v in values)
        connection.exec_driver_sql(f"INSERT INTO effects VALUES ({row})")


def of_revision(path: Path, revision: str) -> dict[str, list[Any]]:
    path.mkdir()
    with store_engine.connect_any_version(path, read_only=False, create=True) as connection, connection.begin():
        migrations.migrate(connection, revision)
        return some_rows(connection, revision)


def stamp(path: Path, revision: str) -> None:
    with store_engine.connect_any_version(path, read_only=False) as connection, connection.begin():
        connection.exec_driver_sql(f"UPDATE alembic_version SET version_num = '{revision}'")


def test_the_migrations_make_what_the_schema_says() -> None:
    with memory() as connection:
        migrations.migrate(connection)
        migrated = shape(connection)
        assert database.revision(store_engine.raw(connection)) == database.VERSION
    with memory() as connection:
        schema.metadata.create_all(connection)
        created = shape(connection)
    assert created["columns"], "nothing was compared"
    assert migrated == created


def test_the_comparison_sees_a_difference() -> None:
    """A parity test that cannot fail proves nothing."""
    with memory() as connection:
        schema.metadata.create_all(connection)
        before = shape(connection)
        connection.exec_driver_sql("ALTER TABLE scores ALTER COLUMN score TYPE DOUBLE")
        connection.exec_driver_sql("ALTER TABLE effects ALTER COLUMN value DROP NOT NULL")
        after = shape(connection)
    changed = [pair for pair in zip(before["columns"], after["columns"], strict=True) if pair[0] != pair[1]]
    assert len(changed) == 2
    assert before["constraints"] != after["constraints"]


def test_the_newest_revision_is_the_one_the_code_needs() -> None:
    from alembic.script import ScriptDirectory

    heads = ScriptDirectory(str(migrations.scripts())).get_heads()
    assert heads == [database.VERSION]
    assert RELEASED[-1] == database.VERSION


def test_downgrade_removes_every_table() -> None:
    from alembic import command

    with memory() as connection:
        migrations.migrate(connection)
        command.downgrade(migrations.config(connection), "base")
        assert shape(connection)["tables"] == []


@pytest.mark.parametrize("revision", RELEASED)
def test_an_upgrade_from_every_released_revision_keeps_its_rows(tmp_path: Path, revision: str) -> None:
    path = tmp_path / "old.atlas"
    wanted = of_revision(path, revision)
    kept = upgrade.upgrade(path)
    assert (kept is None) == (revision == database.VERSION)
    with store_engine.connect_readonly(path) as connection:
        for query, rows in wanted.items():
            assert connection.exec_driver_sql(query).all() == rows
        decoded = 'SELECT projection, side, tokens, token_ids, "values" FROM decodings ORDER BY projection'
        assert connection.exec_driver_sql(decoded).all() == [
            (projection, "top", [" dog"], [7], [1.5]) for projection in ("norm", "plain")
        ]
        told = "SELECT edit, method, dose, reduce, target FROM effects ORDER BY edit"
        assert connection.exec_driver_sql(told).all() == ABLATED


def old_edit(path: Path, name: str, version: int, gains: list[float], biases: list[float]) -> None:
    """An edit as revision 0002 had it: a row, its changes, and one safetensors file with the rest in its header."""
    count = len(gains)
    neurons = {"layer": np.ones(count, np.int16), "neuron": np.arange(count, dtype=np.int32)}
    values = {"gain": np.array(gains, np.float32), "bias": np.array(biases, np.float32)}
    columns = (
        "name",
        "revision",
        "fingerprint",
        "model_type",
        "layers",
        "width",
        "d_model",
        "vocabulary",
        "created_at",
    )
    model = dict(zip(columns, ("tiny", None, "f", "llava", 2, 8, 4, 32, "2026-01-01"), strict=True))
    head = {"name": name, "version": version, "model": model, "tap": "product", "concept": "dog"}
    head |= {"provenance": {"maps": []}, "created_at": "2026-01-02", "component": ["language"] * count}
    (path / "edits").mkdir(exist_ok=True)
    file = path / "edits" / f"{name}@{version}.safetensors"
    save_file(neurons | values, file, metadata={"edit": json.dumps(head, sort_keys=True)})
    with store_engine.connect_any_version(path, read_only=False) as connection, connection.begin():
        number = connection.exec_driver_sql("SELECT count(*) + 1 FROM edits").scalar_one()
        row = f"({number}, '{name}', {version}, 1, 'f', 'product', 'dog', '{{}}', {count}, '{sha256(file)}', '2026')"
        connection.exec_driver_sql(f"INSERT INTO edits VALUES {row}")
        for i in range(count):
            change = f"({number}, 'language', 1, {i}, {gains[i]}, {biases[i]}, 'all', NULL)"
            connection.exec_driver_sql(f"INSERT INTO changes VALUES {change}")


@pytest.fixture
def with_old_edits(tmp_path: Path) -> Path:
    """An atlas of revision 0002 with three edits."""
    path = tmp_path / "old.atlas"
    path.mkdir()
    (path / "runs").mkdir()
    with store_engine.connect_any_version(path, read_only=False, create=True) as connection, connection.begin():
        migrations.migrate(connection, "0002")
        model = "(1, 'tiny', NULL, 'f', 'llava', 2, 8, 4, 32, '2026-01-01')"
        connection.exec_driver_sql(f"INSERT INTO models VALUES {model}")
    old_edit(path, "x", 1, [0.0, 0.0, 0.0], [0.0, 0.0, 0.0])
    old_edit(path, "x", 2, [0.5, 1.0, 0.0], [0.0, -1.5, 0.1])
    old_edit(path, "other", 1, [2.0], [0.0])
    return path


def edits_as_they_were(path: Path) -> None:
    atlas = Atlas.open(path)
    bias = float(np.float32(0.1))
    for label, changes in (
        ("x@1", [(0.0, 0.0)] * 3),
        ("x@2", [(0.5, 0.0), (1.0, -1.5), (0.0, bias)]),
        ("other", [(2.0, 0.0)]),
    ):
        edit = atlas.edit(label).data
        wanted = tuple(Change(Neuron("language", 1, i), gain, added) for i, (gain, added) in enumerate(changes))
        assert edit.intervention == Intervention(wanted) and edit.intervention.deltas is None
        assert (edit.concept, edit.note, edit.solver, edit.created_at) == ("dog", None, None, "2026-01-02")
        assert edit.model["fingerprint"] == "f" and edit.provenance == {"maps": []}
    assert sorted(file.name for file in (path / "edits").iterdir()) == ["other@1.json", "x@1.json", "x@2.json"]
    assert check(path) == []
    assert atlas.edits().table.num_rows == 3


def test_edits_of_the_form_before_are_read_back_equal_after_an_upgrade(with_old_edits: Path) -> None:
    assert upgrade.upgrade(with_old_edits) is not None
    edits_as_they_were(with_old_edits)
    assert rebuild(with_old_edits).edits == 3
    edits_as_they_were(with_old_edits)


def test_edits_of_the_form_before_are_read_back_equal_after_a_rebuild(with_old_edits: Path) -> None:
    assert rebuild(with_old_edits).edits == 3
    edits_as_they_were(with_old_edits)


def test_an_upgrade_that_was_interrupted_between_the_files_goes_on(
    with_old_edits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from atlas.edits import files as edit_files

    plain, done = edit_files.write_edit, list[str]()

    def write(atlas: Path, edit: Any) -> Path:
        if done:
            raise KeyboardInterrupt
        done.append(edit.label)
        return plain(atlas, edit)

    monkeypatch.setattr(edit_files, "write_edit", write)
    with pytest.raises(KeyboardInterrupt):
        upgrade.upgrade(with_old_edits)
    with store_engine.connect_any_version(with_old_edits, read_only=True) as connection:
        assert database.revision(store_engine.raw(connection)) == "0002"
    monkeypatch.undo()
    upgrade.upgrade(with_old_edits)
    edits_as_they_were(with_old_edits)


def test_a_damaged_edit_of_the_form_before_stays_and_is_named(with_old_edits: Path) -> None:
    file = with_old_edits / "edits" / "x@2.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    upgrade.upgrade(with_old_edits)
    assert file.is_file() and Atlas.open(with_old_edits).edit("x@1").data.changes
    problems = [str(finding) for finding in check(with_old_edits)]
    assert any("edit x@2: its file is missing from edits/" in problem for problem in problems)
    assert all("x@2" in problem for problem in problems)


@pytest.fixture
def next_schema(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The migrations with one more, as the next release will have them."""
    scripts = tmp_path / "scripts"
    shutil.copytree(migrations.scripts(), scripts, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(migrations, "scripts", lambda: scripts)
    for module in (upgrade, database):
        monkeypatch.setattr(module, "VERSION", NEXT)
    return scripts


def add_migration(scripts: Path, body: str) -> None:
    head = f"from alembic import op\nrevision = '{NEXT}'\ndown_revision = '{RELEASED[-1]}'\n"
    (scripts / "versions" / f"{NEXT}_next.py").write_text(f"{head}\n\ndef upgrade():\n    {body}\n")


def test_an_older_atlas_is_refused_then_upgraded_with_a_backup(tmp_path: Path, next_schema: Path) -> None:
    path = tmp_path / "old.atlas"
    wanted = of_revision(path, "0001")
    add_migration(next_schema, "op.execute('ALTER TABLE scores ADD COLUMN extra INTEGER DEFAULT 5')")
    refusal = rf"schema 0001, this program needs {NEXT}; `atlas db upgrade"
    with pytest.raises(StoreUnavailable, match=refusal), store_engine.connect_readonly(path):
        pass
    kept = upgrade.upgrade(path)
    assert kept is not None
    with store_engine.connect_readonly(path) as connection:
        assert connection.exec_driver_sql("SELECT sum(extra) FROM scores").scalar() == 40
        for query, rows in wanted.items():
            assert connection.exec_driver_sql(query).all() == rows
    copy = tmp_path / "copy.atlas"
    copy.mkdir()
    shutil.copyfile(kept, database.database_file(copy))
    with store_engine.connect_any_version(copy, read_only=True) as connection:
        assert database.revision(store_engine.raw(connection)) == "0001"
        for query, rows in wanted.items():
            assert connection.exec_driver_sql(query).all() == rows


def test_maps_stored_best_first_are_stored_by_neuron(tmp_path: Path) -> None:
    path = tmp_path / "old.atlas"
    of_revision(path, "0003")
    upgrade.upgrade(path)
    with store_engine.connect_readonly(path) as connection:
        assert connection.exec_driver_sql("SELECT neuron, rank FROM scores ORDER BY rowid").all() == [
            (i, 8 - i) for i in range(8)
        ]
        assert connection.exec_driver_sql("SELECT kept FROM maps").scalar() == 8


def test_a_migration_that_fails_leaves_the_database_as_it_was(tmp_path: Path, next_schema: Path) -> None:
    path = tmp_path / "old.atlas"
    wanted = of_revision(path, "0001")
    add_migration(
        next_schema, "op.execute('ALTER TABLE scores ADD COLUMN extra INTEGER'); op.execute('SELECT nonsense')"
    )
    with pytest.raises(sa.exc.DBAPIError, match="nonsense"):
        upgrade.upgrade(path)
    with store_engine.connect_any_version(path, read_only=True) as connection:
        assert database.revision(store_engine.raw(connection)) == "0001"
        assert "extra" not in {row.column_name for row in shape(connection)["columns"]}
        for query, rows in wanted.items():
            assert connection.exec_driver_sql(query).all() == rows


def test_a_newer_atlas_is_refused_and_left_alone(empty: Path) -> None:
    stamp(empty, "9999")
    for attempt in (store_engine.connect_readonly, store_engine.connect_writer):
        with pytest.raises(StoreUnavailable, match="schema 9999, newer than"), attempt(empty):
            pass
    with pytest.raises(StoreUnavailable, match="schema 9999, newer than") as caught:
        upgrade.upgrade(empty)
    assert caught.value.exit_code == 3
    assert not (empty / "backups").exists()


def test_upgrading_a_current_atlas_does_nothing(empty: Path) -> None:
    assert upgrade.upgrade(empty) is None
    assert not (empty / "backups").exists()


def test_a_backup_of_a_database_with_a_log_has_both(empty: Path, kill_after_commit: Any) -> None:
    kill_after_commit(empty, "INSERT INTO scores SELECT 1, 0, i, 0, i FROM range(100) AS r(i)")
    assert database.wal(empty).stat().st_size
    kept = backup.backup(empty)
    assert database.wal(empty).exists(), "the log belongs to the database until DuckDB itself takes it in"
    copy = empty.parent / "copy.atlas"
    copy.mkdir()
    shutil.copyfile(kept, database.database_file(copy))
    shutil.copyfile(kept.with_name(f"{kept.name}.wal"), database.wal(copy))
    for path in (copy, empty):
        with store_engine.connect_readonly(path) as connection:
            assert connection.exec_driver_sql("SELECT count(*) FROM scores").scalar() == 100


def test_the_migrations_are_found_in_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site-packages" / "atlas"
    shutil.copytree(migrations.scripts(), package / "_alembic")
    monkeypatch.setattr(migrations, "__file__", str(package / "store" / "migrations.py"))
    assert migrations.scripts() == package / "_alembic"
    shutil.rmtree(package / "_alembic")
    with pytest.raises(StoreUnavailable, match="install neuron-atlas again"):
        migrations.scripts()
