"""`atlas db check` finds every kind of damage, and nothing where there is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from atlas import Atlas
from atlas.errors import IntegrityError, StoreUnavailable
from atlas.maintain import check as checking
from atlas.maintain.check import check
from atlas.store import database, engine, run_writer


def found(path: Path) -> list[str]:
    return [str(finding) for finding in check(path)]


def test_a_sound_atlas_has_no_findings(filled: Path, empty: Path) -> None:
    assert found(filled) == found(empty) == []


SQL: list[tuple[str, str]] = [
    # Rows that refer to nothing.
    ("UPDATE concepts SET dataset_id = 77", "concepts: 1 dataset_id (the first is 77) are not in datasets"),
    ("UPDATE examples SET dataset_id = 77", "examples: 1 dataset_id (the first is 77) are not in datasets"),
    ("UPDATE runs SET model_id = 77", "runs: 1 model_id (the first is 77) are not in models"),
    ("UPDATE runs SET dataset_id = 77", "runs: 1 dataset_id (the first is 77) are not in datasets"),
    ("UPDATE maps SET run_id = 'gone'", "maps: 1 run_id (the first is gone) are not in runs"),
    ("UPDATE maps SET model_id = 77", "maps: 1 model_id (the first is 77) are not in models"),
    ("UPDATE maps SET concept_id = 77 WHERE map_id = 2", "maps: 1 concept_id (the first is 77) are not in concepts"),
    ("DELETE FROM maps WHERE map_id = 2", "scores: 1 map_id (the first is 2) are not in maps"),
    ("UPDATE exemplars SET run_id = 'gone'", "exemplars: 1 run_id (the first is gone) are not in runs"),
    ("UPDATE exemplars SET example_id = 'gone'", "exemplars: 1 example_id (the first is gone) are not in examples"),
    ("UPDATE decodings SET model_id = 77", "decodings: 1 model_id (the first is 77) are not in models"),
    ("UPDATE labels SET run_id = 'gone'", "labels: 1 run_id (the first is gone) are not in runs"),
    ("UPDATE responses SET model_id = 77", "responses: 1 model_id (the first is 77) are not in models"),
    ("UPDATE responses SET example_id = 'gone'", "responses: 1 example_id (the first is gone) are not in examples"),
    ("UPDATE effects SET run_id = 'gone'", "effects: 1 run_id (the first is gone) are not in runs"),
    ("UPDATE measures SET run_id = 'gone'", "measures: 1 run_id (the first is gone) are not in runs"),
    ("UPDATE points SET example_id = 'gone'", "points: 1 example_id (the first is gone) are not in examples"),
    ("UPDATE measures SET concept = 'zebra'", "measures: 1 concepts (the first is 'zebra') are not in concepts"),
    ("UPDATE examples SET concepts = ['zebra']", "examples: 1 concepts (the first is 'zebra') are not in concepts"),
    ("UPDATE effects SET concept = 'zebra'", "effects: 1 concepts (the first is 'zebra') are not in concepts"),
    (
        "INSERT INTO edits VALUES (5, 'e', 1, 77, 'f', 'product', 'zebra', '{}', 0, 's', 'now', NULL, NULL)",
        "edits: 1 model_id (the first is 77) are not in models",
    ),
    (
        "INSERT INTO changes VALUES (5, 'language', 0, 0, 0, 0, 'all', NULL, 0)",
        "changes: 1 edit_id (the first is 5) are not in edits",
    ),
    # Rows that are there twice.
    (
        "INSERT INTO responses SELECT * FROM responses",
        "responses: 2 groups of rows have the same model_id, example_id, generation",
    ),
    ("INSERT INTO points SELECT * FROM points", "points: 2 groups of rows have the same run_id, projection, layer"),
    (
        "INSERT INTO measures SELECT * FROM measures",
        "measures: 2 groups of rows have the same run_id, name, method",
    ),
    ("UPDATE concepts SET name = 'dog'", "concepts: 1 groups of rows have the same dataset_id, name"),
    # Scores.
    ("DELETE FROM scores WHERE map_id = 3 AND rank > 10", "map 3: has 10 scores, its row says 16"),
    ("DELETE FROM scores WHERE map_id = 3", "map 3: has 0 scores, its row says 16"),
    ("UPDATE maps SET kept = 17 WHERE map_id = 3", "map 3: has 16 scores, its row says 17"),
    ("UPDATE maps SET neurons = 15 WHERE map_id = 3", "map 3: keeps 16 scores of 15 neurons"),
    ("INSERT INTO sketches VALUES (77, 1, 0.5)", "sketches: 1 map_id (the first is 77) are not in maps"),
    (
        "INSERT INTO vectors VALUES ('gone', 'language', 0, 0, [1])",
        "vectors: 1 run_id (the first is gone) are not in runs",
    ),
    ("INSERT INTO indexes VALUES ('gone', 'flat', 0, 0, 'c', 0, 's', 'now')", "indexes: 1 run_id (the first is gone)"),
    ("UPDATE scores SET rank = 5 WHERE map_id = 3 AND rank = 4", "map 3: 1 ranks do not count 1, 2, 3, ..."),
    ("UPDATE scores SET rank = 2 WHERE map_id = 3 AND rank = 1", "map 3: 1 ranks do not count 1, 2, 3, ..."),
    (
        "UPDATE scores SET score = 9 WHERE map_id = 3 AND rank = 4",
        "map 3: 1 scores are larger than one of a better rank",
    ),
    ("UPDATE scores SET score = 'nan' WHERE map_id = 3 AND rank = 1", "map 3: 1 scores are not finite"),
    (
        "UPDATE scores SET layer = 2 WHERE map_id = 3 AND rank = 1",
        "map 3: has neurons beyond the model's layers or width",
    ),
    (
        "UPDATE scores SET neuron = 8 WHERE map_id = 3 AND rank = 1",
        "map 3: has neurons beyond the model's layers or width",
    ),
    ("INSERT INTO scores SELECT 3, 0, 1, -1, 17", "map 3: is stored in 2 pieces"),
    ("INSERT INTO scores SELECT 6, 0, 1, -1, 17", "map 6: 1 neurons are out of order or duplicated"),
    (
        "UPDATE scores SET neuron = 9 - neuron WHERE map_id = 3 AND layer = 1",
        "map 3: 7 neurons are out of order or duplicated",
    ),
    # A database that differs from runs/.
    (
        "UPDATE scores SET score = score * 1.0000001 + 1e-7 WHERE map_id = 3",
        "map 3: its scores differ from those in runs/",
    ),
    ("DELETE FROM scores WHERE map_id = 3 AND rank = 16", "map 3: has 15 scores in the database and 16 in runs/"),
    ("UPDATE maps SET mean = 0.75 WHERE map_id = 3", "run 6b86b273ff34: its maps differ from those in runs/"),
    ("UPDATE maps SET concept_id = 1 WHERE map_id = 3", "run 6b86b273ff34: its maps differ from those in runs/"),
    ("UPDATE exemplars SET value = 9", "run 6b86b273ff34: its exemplars differ from those in runs/"),
    ("DELETE FROM labels", "run 6b86b273ff34: has 0 labels in the database and 1 in runs/"),
    ("UPDATE effects SET value = 0.2", "run 6b86b273ff34: its effects differ from those in runs/"),
    ("UPDATE measures SET value = 0.2", "run 6b86b273ff34: its measures differ from those in runs/"),
    ("DELETE FROM points", "run 6b86b273ff34: has 0 points in the database and 1 in runs/"),
    ("UPDATE runs SET job = '{}'", "run 6b86b273ff34: its job differs from the manifest"),
    ("UPDATE models SET fingerprint = 'other'", "run 6b86b273ff34: its model differs from the manifest"),
    ("UPDATE datasets SET licence = 'other'", "run 6b86b273ff34: its dataset differs from the manifest"),
    ("UPDATE concepts SET forms = ['x']", "run 6b86b273ff34: its concept 'dog' differs from the manifest"),
    ("DELETE FROM decodings", "decodings: 2 rows of runs/ are not in the database (model_id 1)"),
    ("UPDATE decodings SET values = [9.0]", "decodings: 1 rows are in no run folder (model_id 1)"),
    ("UPDATE responses SET text = 'a cat'", "responses: 2 rows are in no run folder (model_id 1)"),
    ("DELETE FROM examples", "examples: 2 rows of runs/ are not in the database (dataset_id 1)"),
    ("UPDATE runs SET status = 'failed'", "run 6b86b273ff34: is complete in runs/ but not in the database"),
]


@pytest.mark.parametrize(("damage", "finding"), SQL)
def test_damage_in_the_database_is_found(filled: Path, damage: str, finding: str) -> None:
    with engine.connect_writer(filled) as connection:
        connection.exec_driver_sql(damage)
    assert any(text.startswith(finding) for text in found(filled)), found(filled)


def rewrite(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "finding"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), "has no manifest.json"),
        (lambda folder: (folder / "scores.parquet").unlink(), "scores.parquet is missing"),
        (lambda folder: rewrite(folder / "scores.parquet"), "does not match its manifest (sha256)"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "is not a manifest"),
    ],
)
def test_damage_in_a_run_folder_is_found(
    filled: Path, make_run: Any, damage: Callable[[Path], object], finding: str
) -> None:
    damage(filled / "runs" / make_run(1).run_id)
    assert any(finding in text for text in found(filled)), found(filled)


def test_a_run_that_was_never_loaded_is_found(filled: Path, make_run: Any) -> None:
    run = make_run(9)
    run.write(filled)
    assert found(filled) == [
        f"run {run.run_id[:12]}: is complete in runs/ but not in the database; "
        "start its job again, or `atlas db rebuild`"
    ]


def test_a_folder_that_says_otherwise_than_the_database_is_found(filled: Path, make_run: Any) -> None:
    """A manifest may be whole and still not be what was loaded."""
    run = make_run(1)
    scores = run.tables["scores"]
    other = scores.set_column(3, "score", pa.array([9.0, *scores["score"].to_pylist()[1:]], pa.float32()))
    run_writer.write_run(filled / "runs" / run.run_id, run.head, run.tables | {"scores": other})
    assert found(filled) == ["map 1: its scores differ from those in runs/"]


def test_edits_and_their_files(filled: Path) -> None:
    file = filled / "edits" / "no-dog@1.json"
    file.write_bytes(b"weights")
    assert found(filled) == [f"edits: {file} is not in the database; `atlas db rebuild` stores it"]
    edit = "(1, 'no-dog', 1, 1, 'f', 'product', 'dog', '{}', 2, 'not its sha256', 'now', NULL, NULL)"
    with engine.connect_writer(filled) as connection:
        connection.exec_driver_sql(f"INSERT INTO edits VALUES {edit}")
    assert found(filled) == [
        f"edit no-dog@1: {file} was changed since it was stored (sha256)",
        "edit no-dog@1: has 0 changes, its row says 2",
    ]
    file.unlink()
    assert "edit no-dog@1: its file is missing from edits/" in found(filled)


def test_a_selection_that_cannot_be_read_is_found(filled: Path) -> None:
    Atlas.open(filled).save_selection("dog", Atlas.open(filled).query("dog", top=3))
    assert found(filled) == []
    file = filled / "selections" / "dog.json"
    file.write_text(file.read_text().replace('"neurons"', '"nurons"'))
    assert [text.partition(" (")[0] for text in found(filled)] == [
        f"selection dog: the selection's file {file} is damaged"
    ]


def test_ranks_are_checked_some_maps_at_a_time(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = [(1, 10), (2, 10), (5, 30), (6, 5), (7, 1)]
    monkeypatch.setattr(checking, "_ROWS_AT_ONCE", 20)
    assert list(checking._ranges(counts)) == [(1, 2), (5, 5), (6, 7)]
    with engine.connect_writer(filled) as connection:
        connection.exec_driver_sql("UPDATE scores SET rank = 99 WHERE map_id IN (2, 6) AND rank = 16")
    repeated = [text for text in found(filled) if "do not count" in text]
    assert repeated == ["map 2: 1 ranks do not count 1, 2, 3, ...", "map 6: 1 ranks do not count 1, 2, 3, ..."]


def test_a_damaged_or_missing_database_is_an_error_not_a_finding(filled: Path, tmp_path: Path) -> None:
    database.database_file(filled).write_bytes(b"")
    with pytest.raises(IntegrityError, match="is damaged"):
        check(filled)
    with pytest.raises(StoreUnavailable, match="there is no atlas"):
        check(tmp_path / "none")
