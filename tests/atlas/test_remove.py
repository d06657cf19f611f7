"""Runs removed, room given back, and everything recorded of a run."""

from __future__ import annotations

import fcntl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from atlas import Atlas
from atlas.errors import StoreUnavailable, UsageError
from atlas.maintain.check import check
from atlas.maintain.compact import compact
from atlas.maintain.remove_runs import full_ids, remove_runs
from atlas.query.run_record import difference, facts, flat
from atlas.store import create, engine, run_loader


def test_a_removed_run_leaves_what_others_have(
    filled: Path, make_run: Callable[..., Any], dump: Any, tmp_path: Path
) -> None:
    first, second = make_run(1), make_run(2, concepts=("cat", "horse"))
    alone = tmp_path / "alone.atlas"
    create.init(alone)
    with engine.connect_writer(alone) as connection:
        run_loader.load_run(connection, second.write(alone))
    (done,) = remove_runs(filled, full_ids(filled, [first.run_id[:6]]))
    assert (done.run_id, done.maps) == (first.run_id, 3) and done.bytes > 0
    assert check(filled) == []
    assert not (filled / "runs" / first.run_id).exists()
    kept, wanted = dump(filled), dump(alone)
    for table in ("exemplars", "labels", "effects", "measures", "points", "runs", "responses", "decodings"):
        assert kept[table] == wanted[table]
    assert len(kept["scores"]) == 48 and {row[0] for row in kept["scores"]} == {4, 5, 6}
    with engine.connect_writer(filled) as connection:
        run_loader.load_run(connection, first.write(filled))  # it can come back
    assert check(filled) == [] and len(dump(filled)["scores"]) == 96


def test_rows_that_only_the_removed_run_had_are_gone(filled: Path, make_run: Callable[..., Any], dump: Any) -> None:
    list(remove_runs(filled, [make_run(1).run_id, make_run(2).run_id]))
    rows = dump(filled)
    assert {name for name, found in rows.items() if found} == {"models", "datasets", "concepts"}
    assert check(filled) == []


def test_a_run_that_is_running_is_not_removed(filled: Path, make_run: Callable[..., Any], dump: Any) -> None:
    run_id, before = make_run(1).run_id, dump(filled)
    with (filled / "runs" / run_id / "lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(StoreUnavailable, match="is running"):
            list(remove_runs(filled, [run_id]))
    assert dump(filled) == before and check(filled) == []


def test_compacting_gives_room_back_and_changes_nothing(filled: Path, make_run: Callable[..., Any], dump: Any) -> None:
    with engine.connect_writer(filled) as connection:
        connection.exec_driver_sql("CREATE TABLE big AS SELECT random() AS x FROM range(1000000)")
    with engine.connect_writer(filled) as connection:
        run_loader.load_run(connection, make_run(3).write(filled))
    with engine.connect_writer(filled) as connection:
        connection.exec_driver_sql("DROP TABLE big")
    before = dump(filled)
    done = compact(filled)
    assert done.after < done.before and dump(filled) == before and check(filled) == []
    assert not list(filled.glob("compact-*"))
    with engine.connect_readonly(filled) as connection:
        order = "SELECT map_id, layer, neuron FROM scores"
        assert connection.exec_driver_sql(f"{order} ORDER BY rowid").all() == sorted(
            connection.exec_driver_sql(order).all()
        )
    with engine.connect_readonly(filled), pytest.raises(StoreUnavailable):
        compact(filled)


def test_a_run_can_be_named_by_its_beginning(filled: Path, make_run: Callable[..., Any]) -> None:
    ids = [make_run(1).run_id, make_run(2).run_id]
    assert full_ids(filled, [ids[0][:5], ids[0], ids[1][:4]]) == ids
    for prefix in ("", "zz"):
        with pytest.raises(UsageError, match="no run called"):
            full_ids(filled, [prefix])
    with engine.connect_writer(filled) as connection:
        connection.exec_driver_sql(f"INSERT INTO runs SELECT * REPLACE ('{ids[0][:7]}0' AS run_id) FROM runs LIMIT 1")
    with pytest.raises(UsageError, match=f"several runs begin with '{ids[0][:3]}'"):
        full_ids(filled, [ids[0][:3]])


def test_every_fact_of_a_run_is_told_and_only_differences_differ(stored_atlas: Path) -> None:
    (run_id,) = {m["run_id"] for m in Atlas.open(stored_atlas).query("dog").provenance["maps"]}
    found = facts(stored_atlas, run_id[:6])
    said = {row["fact"]: row["value"] for row in found.table().to_pylist()}
    assert said["model.name"] and len(said["model.fingerprint"]) == 64
    assert said["job.methods.contribution.norm"] == "false" and said["job.seed"] == "0"
    for name in ("environment.device", "environment.dtype", "environment.versions.torch", "outcome.seconds"):
        assert said[name]
    assert said["outcome.peak_memory_bytes"].isdecimal() and said["dataset.licence"]
    assert '"neurons": 128' in said["maps.contribution image text mean product"]
    assert difference(stored_atlas, run_id, run_id).num_rows == 0


def test_what_two_runs_differ_in(filled: Path, make_run: Callable[..., Any]) -> None:
    rows = difference(filled, make_run(1).run_id, make_run(2).run_id).to_pylist()
    found = {row["fact"]: (row["first"], row["second"]) for row in rows}
    assert found["job.seed"] == ("1", "2") and "model.name" not in found and "environment.torch" not in found
    assert set(found) == {"run_id", "finished_at", "job.seed"}


def test_objects_are_laid_flat() -> None:
    whole = {"a": {"b": [1, 2], "c": [{"d": None}, []], "e": {}}, "f": "x"}
    assert dict(flat(whole)) == {"a.b": [1, 2], "a.c[0].d": None, "a.c[1]": [], "a.e": {}, "f": "x"}
