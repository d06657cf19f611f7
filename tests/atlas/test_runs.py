"""Rows, run folders, the ledger and the rebuild."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from older_atlas import older_decodings

from atlas.edits import rows as edit_rows
from atlas.edits.edit import Change, Edit, Intervention
from atlas.edits.files import read_stored
from atlas.edits.library import store
from atlas.errors import IntegrityError, StoreUnavailable, UsageError
from atlas.maintain import rebuild
from atlas.maintain.check import check
from atlas.neurons import Neuron
from atlas.store import arrow_types, database, engine, insert, ledger, run_loader, run_manifest, run_writer, schema
from atlas.store.atomic import sha256

LABEL = {"run_id": "r", "component": "language", "layer": 1, "neuron": 3, "label": "image", "rule": "max", "score": 1.0}


def table(name: str, values: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(values, schema=arrow_types.arrow_schema(schema.metadata.tables[name]))


# Rows


def test_insert_takes_a_table_and_a_stream(empty: Path) -> None:
    rows_in = table("labels", [LABEL, LABEL | {"neuron": 4}])
    with engine.connect_writer(empty) as connection:
        assert insert.insert(connection, schema.labels, rows_in) == 2
        assert insert.insert(connection, schema.labels, rows_in.to_reader(max_chunksize=1)) == 2
        assert insert.insert(connection, schema.labels, rows_in.slice(0, 0)) == 0
    with engine.connect_readonly(empty) as connection:
        stored = connection.execute(sa.select(schema.labels)).mappings().all()
    assert [dict(row) for row in stored] == [LABEL, LABEL | {"neuron": 4}] * 2


def test_reserved_words_as_columns(empty: Path) -> None:
    change = {"edit_id": 1, "component": "language", "layer": 0, "neuron": 1, "gain": 0.0, "bias": 0.0}
    with engine.connect_writer(empty) as connection:
        insert.insert(connection, schema.changes, table("changes", [change | {"where": "all", "write": None}]))
        assert connection.execute(sa.select(schema.changes.c.where)).scalar() == "all"


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda t: t.rename_columns(["map", *t.column_names[1:]]), "has columns"),
        (lambda t: t.select(["layer", "map_id", "neuron", "score", "rank"]), "has columns"),
        (lambda t: t.drop_columns(["rank"]), "has columns"),
        (lambda t: t.set_column(3, "score", t["score"].cast(pa.float64())), "scores.score is float, not double"),
    ],
)
def test_insert_refuses_other_columns(empty: Path, make_run: Any, spoil: Any, match: str) -> None:
    with engine.connect_writer(empty) as connection, pytest.raises(IntegrityError, match=match):
        insert.insert(connection, schema.scores, spoil(make_run(1).tables["scores"]))


def test_a_refused_row_is_an_error_that_names_the_table(empty: Path) -> None:
    missing = table("labels", [LABEL]).set_column(6, "score", pa.array([None], pa.float32()))
    with (
        pytest.raises(IntegrityError, match="table labels refuses the rows.*NOT NULL"),
        engine.connect_writer(empty) as c,
    ):
        insert.insert(c, schema.labels, missing)
    with engine.connect_writer(empty) as connection:
        assert insert.insert(connection, schema.labels, table("labels", [LABEL])) == 1


def test_ids_are_found_or_added(empty: Path) -> None:
    model = {"name": "m", "revision": None, "fingerprint": "f", "model_type": "llava", "layers": 2, "width": 8}
    model |= {"d_model": 4, "vocabulary": 9, "created_at": "x"}
    data = {"name": "coco", "path": "/old", "revision": "1", "licence": "CC BY", "created_at": "x"}
    concepts = [
        {"name": name, "supercategory": None, "category_id": None, "forms": [name, f"{name}s"]} for name in "abc"
    ]
    with engine.connect_writer(empty) as connection:
        assert insert.model_id(connection, model) == insert.model_id(connection, model) == 1
        assert insert.model_id(connection, model | {"revision": "r"}) == 2
        assert insert.model_id(connection, model | {"fingerprint": "g"}) == 3
        assert insert.dataset_id(connection, data) == insert.dataset_id(connection, data | {"path": "/new"}) == 1
        assert connection.execute(sa.select(schema.datasets.c.path)).scalar() == "/new"
        assert insert.dataset_id(connection, data | {"revision": "2"}) == 2
        assert insert.concept_ids(connection, 1, concepts[:1]) == {"a": 1}
        assert insert.concept_ids(connection, 1, concepts) == {"a": 1, "b": 2, "c": 3}
        assert insert.concept_ids(connection, 2, concepts[2:]) == {"c": 4}
        with pytest.raises(IntegrityError, match="needs a new revision"):
            insert.concept_ids(connection, 1, [concepts[0] | {"forms": ["a"]}])
        with pytest.raises(IntegrityError, match="the same name"):
            insert.concept_ids(connection, 1, [concepts[0], concepts[0]])


# Run folders


def test_a_run_comes_back_as_it_was_written(empty: Path, make_run: Any, dump: Any) -> None:
    run = make_run(1)
    folder = run.write(empty)
    with engine.connect_writer(empty) as connection:
        assert run_loader.load_run(connection, folder) == run.run_id
    assert check(empty) == []
    stored = dump(empty)
    for name in ("scores", "exemplars", "labels", "effects", "measures", "points"):
        wanted = [tuple(row.values()) for row in run.tables[name].to_pylist()]
        if name == "scores":
            wanted = [(row[0] + 1, *row[1:]) for row in wanted]
        assert stored[name] == sorted(wanted, key=repr)
    assert [(row[0], row[3]) for row in stored["maps"]] == [(1, None), (2, 1), (3, 2)]
    [ledger_row] = stored["runs"]
    assert ledger_row[2] == "done"
    assert json.loads(ledger_row[5]) == run.head["run"]["job"]


def test_loading_twice_changes_nothing(filled: Path, dump: Any) -> None:
    before = dump(filled)
    for folder in sorted((filled / "runs").iterdir()):
        with engine.connect_writer(filled) as connection:
            run_loader.load_run(connection, folder)
        assert dump(filled) == before
    assert check(filled) == []


def test_a_run_that_is_written_again_replaces_its_rows(filled: Path, make_run: Any, dump: Any) -> None:
    old = dump(filled)
    run = make_run(1)
    fewer = {
        "maps": run.tables["maps"].slice(0, 2),
        "scores": run.tables["scores"].slice(0, 32),
        "examples": run.tables["examples"],
        "responses": run.tables["responses"],
    }
    run_writer.write_run(filled / "runs" / run.run_id, run.head, fewer)
    assert not (filled / "runs" / run.run_id / "labels.parquet").exists()
    with engine.connect_writer(filled) as connection:
        run_loader.load_run(connection, filled / "runs" / run.run_id)
    new = dump(filled)
    assert len(new["maps"]) == len(old["maps"]) - 1
    assert len(new["scores"]) == len(old["scores"]) - 16
    assert len(new["labels"]) == len(old["labels"]) - 1
    assert new["examples"] == old["examples"]
    assert new["decodings"] == old["decodings"], "they belong to the model, and the other run has them too"
    assert check(filled) == []


def test_runs_share_the_model_the_dataset_and_their_rows(filled: Path, dump: Any) -> None:
    stored = dump(filled)
    assert (len(stored["models"]), len(stored["datasets"]), len(stored["runs"])) == (1, 1, 2)
    assert sorted(row[2] for row in stored["concepts"]) == ["cat", "dog", "horse"]
    assert (len(stored["decodings"]), len(stored["examples"]), len(stored["maps"])) == (1, 2, 6)


def test_scores_stream_and_keep_their_order(empty: Path, make_run: Any) -> None:
    run = make_run(1)
    batches = iter(run.tables["scores"].to_batches(max_chunksize=5))
    folder = empty / "runs" / run.run_id
    run_writer.write_run(folder, run.head, run.tables | {"scores": batches})
    assert pq.read_table(folder / "scores.parquet").equals(run.tables["scores"])
    with engine.connect_writer(empty) as connection:
        run_loader.load_run(connection, folder)
        found = connection.exec_driver_sql("SELECT map_id, layer, neuron FROM scores ORDER BY rowid").all()
    assert found == [(number, layer, neuron) for number in (1, 2, 3) for layer in range(2) for neuron in range(8)]


def test_a_folder_of_an_older_schema_is_stored_in_todays_form(empty: Path, make_run: Any, dump: Any) -> None:
    """Before 0004 maps lay best first, and had no count of what is kept; before 0005 effects had no clusters,
    before 0006 no method, before 0007 decodings two projections, before 0008 points no condition."""
    run = make_run(1)
    folder = run.write(empty)
    with engine.connect_writer(empty) as connection:
        run_loader.load_run(connection, folder)
    wanted = dump(empty)
    said = json.loads((folder / "manifest.json").read_text())
    old = {"scores": run.tables["scores"].sort_by([("map_id", "ascending"), ("rank", "ascending")])}
    old["maps"] = run.tables["maps"].drop_columns(["kept"])
    old["effects"] = run.tables["effects"].drop_columns(["clusters", "effective", "method", "dose", "reduce", "target"])
    old["decodings"] = older_decodings(run.tables["decodings"])
    old["points"] = run.tables["points"].drop_columns(["condition"])
    for name, rows_of in old.items():
        file = folder / f"{name}.parquet"
        pq.write_table(rows_of, file)
        entry = {"rows": rows_of.num_rows, "bytes": file.stat().st_size, "sha256": sha256(file)}
        said["files"][file.name] = entry
    (folder / "manifest.json").write_text(json.dumps(said | {"schema": "0003"}))
    assert check(empty) == []
    with engine.connect_writer(empty) as connection:
        run_loader.load_run(connection, folder)
    assert dump(empty) == wanted
    assert check(empty) == []


def set_column(name: str, column: str, values: list[Any]) -> Any:
    def change(tables: Mapping[str, pa.Table]) -> dict[str, pa.Table]:
        old = tables[name]
        place = old.column_names.index(column)
        padded = [*values, *old[column].to_pylist()[len(values) :]]
        return {**tables, name: old.set_column(place, column, pa.array(padded, old.schema.field(column).type))}

    return change


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (set_column("maps", "map_id", [1, 2, 3]), "map_id"),
        (set_column("maps", "concept_id", [2]), r"maps.concept_id is 0 to 2, local ids are 0 to 1"),
        (set_column("maps", "run_id", ["0" * 64]), r"maps.run_id is not"),
        (set_column("scores", "map_id", [3]), r"scores.map_id is 0 to 3, local ids are 0 to 2"),
        (set_column("scores", "map_id", [1]), r"scores.map_id does not come map by map"),
        (set_column("scores", "neuron", [1]), r"scores.neuron does not count up within a layer of a map"),
        (set_column("scores", "layer", [1]), r"scores.neuron does not count up within a layer of a map"),
        (set_column("scores", "score", [float("nan")]), r"scores.score is not finite"),
        (set_column("scores", "score", [None]), r"scores.score is null"),
        (set_column("responses", "model_id", [1]), r"responses.model_id"),
        (set_column("examples", "concepts", [["zebra"]]), r"names \['zebra'\], which the manifest's concepts lack"),
        (lambda tables: tables | {"scared": tables["scores"]}, "unknown tables"),
    ],
)
def test_a_wrong_run_is_refused_and_never_complete(tmp_path: Path, make_run: Any, change: Any, match: str) -> None:
    run = make_run(1)
    folder = tmp_path / run.run_id
    with pytest.raises(IntegrityError, match=match):
        run_writer.write_run(folder, run.head, change(run.tables))
    assert not (folder / run_manifest.NAME).exists()


@pytest.mark.parametrize(
    ("part", "key", "value", "match"),
    [
        ("run", "run_id", "../../etc", "not a run id"),
        ("run", "finished_at", None, "finished_at"),
        ("run", "job", "text", "no object 'job'"),
        ("run", "kind", 3, "runs.kind"),
        ("model", "layers", "two", "models.layers"),
        ("model", "name", None, "models.name in the manifest is null"),
        ("dataset", "extra", 1, "a row of datasets"),
    ],
)
def test_a_wrong_head_is_refused(tmp_path: Path, make_run: Any, part: str, key: str, value: Any, match: str) -> None:
    run = make_run(1)
    head = run.head | {part: run.head[part] | {key: value}}
    with pytest.raises(IntegrityError, match=match):
        run_writer.write_run(tmp_path / run.run_id, head, run.tables)
    assert list(tmp_path.iterdir()) == []


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-10])


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), "interrupted, start it again"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "cannot be read"),
        (lambda folder: (folder / "manifest.json").write_text('{"format": 99}'), "not a manifest of format 1"),
        (lambda folder: (folder / "scores.parquet").unlink(), "scores.parquet is missing"),
        (lambda folder: cut(folder / "scores.parquet"), "does not match its manifest"),
        (lambda folder: shutil.move(folder, folder.with_name("ab" * 32)), None),
    ],
)
def test_a_damaged_folder_is_refused_and_nothing_stored(
    empty: Path, make_run: Any, dump: Any, damage: Any, match: str | None
) -> None:
    before = dump(empty)
    folder = make_run(1).write(empty)
    damage(folder)
    if match is None:
        folder, match = folder.with_name("ab" * 32), "belongs to run"
    with pytest.raises(IntegrityError, match=match), engine.connect_writer(empty) as connection:
        run_loader.load_run(connection, folder)
    assert dump(empty) == before


def test_a_manifest_cannot_name_a_file_elsewhere(empty: Path, make_run: Any) -> None:
    folder = make_run(1).write(empty)
    text = (folder / run_manifest.NAME).read_text()
    (folder / run_manifest.NAME).write_text(text.replace('"scores.parquet"', '"../../scores.parquet"'))
    with pytest.raises(IntegrityError, match="is not a shard"):
        run_manifest.read_manifest(folder)


# The ledger


def test_the_ledger_follows_a_run(empty: Path, make_run: Any) -> None:
    run = make_run(1)
    facts: dict[str, Any] = {"kind": "ingest", "job": {"b": 1, "a": "é"}, "environment": {}}
    facts |= {"model_id": None, "dataset_id": None}
    with engine.connect_writer(empty) as connection:
        assert ledger.status(connection, run.run_id) is None
        with pytest.raises(UsageError, match="no run called"):
            ledger.fail_run(connection, run.run_id, {})
        ledger.begin_run(connection, run.run_id, **facts)
        assert ledger.status(connection, run.run_id) == "running"
        assert connection.execute(sa.select(schema.runs.c.job)).scalar() == '{"a": "é", "b": 1}'
        ledger.fail_run(connection, run.run_id, {"error": "out of memory"})
        assert ledger.status(connection, run.run_id) == "failed"
        ledger.begin_run(connection, run.run_id, **facts)
        ledger.fail_run(connection, run.run_id, {"error": "interrupted"}, interrupted=True)
        assert ledger.status(connection, run.run_id) == "interrupted"
        ledger.begin_run(connection, run.run_id, **facts)
        assert connection.execute(sa.select(schema.runs.c.outcome)).scalar() == "{}"
        run_loader.load_run(connection, run.write(empty))
        assert ledger.status(connection, run.run_id) == "done"
        ledger.begin_run(connection, run.run_id, **facts)
        ledger.fail_run(connection, run.run_id, {})
        assert ledger.status(connection, run.run_id) == "done", "what is done stays until it is replaced"


# The rebuild


def an_edit(path: Path) -> Path:
    """The file of an edit that is stored in an atlas."""
    model = {"name": "tiny", "revision": None, "fingerprint": "f" * 64, "model_type": "llava", "layers": 2, "width": 8}
    model |= {"d_model": 4, "vocabulary": 32, "created_at": "2026-01-01T00:00:00"}
    intervention = Intervention((Change(Neuron("language", 1, 3), 0.0),))
    edit = store(path, Edit("no-dog", 0, model, "dog", {"fingerprint": "f" * 64}, intervention, "2026-01-01T00:00:00"))
    return path / "edits" / f"{edit.label}.json"


def test_the_database_is_made_again_from_its_files(filled: Path, dump: Any) -> None:
    stored = read_stored(an_edit(filled))
    with engine.connect_writer(filled) as connection:
        assert edit_rows.load_edit(connection, *stored) == edit_rows.load_edit(connection, *stored) == 1
    assert check(filled) == []
    before = dump(filled)
    done = rebuild.rebuild(filled)
    assert (done.runs, done.edits, done.skipped) == (2, 1, ())
    assert done.old is not None and done.old.parent == filled / "backups"
    assert dump(filled) == before
    assert check(filled) == []
    assert not list(filled.glob("rebuild-*"))


@pytest.mark.parametrize("damage", ["missing", "truncated", "text"])
def test_a_rebuild_needs_nothing_of_the_old_database(filled: Path, dump: Any, damage: str) -> None:
    before = dump(filled)
    if damage == "missing":
        database.database_file(filled).unlink()
    else:
        database.database_file(filled).write_bytes(b"" if damage == "truncated" else b"not a database" * 1000)
    done = rebuild.rebuild(filled)
    assert done.runs == 2
    assert (done.old is None) == (damage == "missing")
    assert dump(filled) == before


def test_a_rebuild_leaves_out_what_is_damaged_and_names_it(filled: Path, make_run: Any, dump: Any) -> None:
    cut(filled / "runs" / make_run(1).run_id / "scores.parquet")
    (filled / "runs" / make_run(5).run_id).mkdir()
    done = rebuild.rebuild(filled)
    assert done.runs == 1
    assert sorted("sha256" in reason or "interrupted" in reason for reason in done.skipped) == [True, True]
    assert [row[0] for row in dump(filled)["runs"]] == [make_run(2).run_id]


def test_a_rebuild_keeps_the_log_of_the_old_database(filled: Path, kill_after_commit: Any) -> None:
    kill_after_commit(filled, "INSERT INTO scores VALUES (99, 0, 0, 0, 1)")
    log = database.wal(filled).read_bytes()
    database.database_file(filled).write_bytes(b"x" * 100_000)
    done = rebuild.rebuild(filled)
    assert done.old is not None
    assert done.old.with_name(f"{done.old.name}.wal").read_bytes() == log
    assert not database.wal(filled).exists()


def test_a_rebuild_needs_an_atlas_that_is_not_in_use(filled: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="no folder runs"):
        rebuild.rebuild(tmp_path / "none")
    with engine.connect_readonly(filled), pytest.raises(StoreUnavailable, match="open in another mode"):
        rebuild.rebuild(filled)
