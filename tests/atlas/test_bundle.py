"""Bundles: what is exported comes in the same elsewhere; what was tampered with does not come in at all."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bundles import (
    HERE,
    WEIGHTS,
    a_run,
    add_edit,
    add_selection,
    change,
    fill,
    older,
    rerun,
    rewrite,
    said,
    sign,
    tree,
    write,
)

from atlas.edits.files import read_edit
from atlas.errors import AtlasError, IntegrityError, StoreUnavailable, UsageError
from atlas.maintain.check import check
from atlas.share.choice import Choice
from atlas.share.export import export
from atlas.share.import_bundle import import_bundle, require_all
from atlas.share.listing import FORMAT, parse_listing
from atlas.share.portable import portable
from atlas.store import create, database, engine, schema
from atlas.store.ledger import json_text
from atlas.store.run_loader import load_run

MUTATIONS = 400
Dump = Callable[[Path], Any]


@pytest.fixture(scope="module")
def origin_once(tmp_path_factory: pytest.TempPathFactory, make_run: Any) -> Path:
    return fill(tmp_path_factory.mktemp("origin") / "a.atlas", make_run)


@pytest.fixture(scope="module")
def bundle_once(origin_once: Path) -> Path:
    return export(origin_once, origin_once.parent / "bundle").folder


@pytest.fixture
def origin(origin_once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(origin_once, tmp_path / "origin.atlas"))


@pytest.fixture
def bundle(bundle_once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle_once, tmp_path / "bundle"))


def outcomes(bundle: Path, path: Path) -> list[tuple[str, str, str]]:
    return [(c.kind, c.name[:8] if c.kind == "run" else c.name, c.outcome) for c in import_bundle(bundle, path)]


# There and back


def portable_rows(found: Any) -> Any:
    """A dump without what a bundle leaves out: the path of a dataset, the folder of a model, and paths in a run's
    record; an edit's file has its model's name, so that its sum is another."""
    made = {}
    for table in schema.metadata.sorted_tables:
        rows = [dict(zip((c.name for c in table.columns), row, strict=True)) for row in found[table.name]]
        for row in rows:
            if table.name == "runs":
                row |= {n: json_text(portable(json.loads(row[n]), HERE)) for n in ("job", "environment", "outcome")}
            row |= {"path": None} if table.name == "datasets" else {}
            row |= {"name": "tiny"} if table.name == "models" else {}
            if table.name == "edits":
                row |= {"sha256": "", "provenance": row["provenance"].replace(WEIGHTS, "tiny")}
        made[table.name] = sorted((tuple(row.values()) for row in rows), key=repr)
    return made


def test_an_atlas_comes_in_the_same_elsewhere(origin: Path, bundle: Path, tmp_path: Path, dump: Dump) -> None:
    new = tmp_path / "made" / "new.atlas"
    assert {o for _, _, o in outcomes(bundle, new)} == {"stored"}
    assert portable_rows(dump(new)) == portable_rows(dump(origin)) != dump(origin)
    assert dump(new)["models"][0][1] == "tiny" and dump(new)["datasets"][0][2] is None
    assert check(new) == []
    assert export(new, tmp_path / "again").bytes > 0
    assert tree(tmp_path / "again") == tree(bundle)
    assert not list(new.glob(".*"))


def in_the_hubs_cache(bundle: Path, cache: Path) -> Path:
    """The bundle as a snapshot whose files are links to the blobs."""
    place = cache / "snapshots" / ("0" * 40)
    place.parent.mkdir(parents=True)
    (cache / "blobs").mkdir()
    bundle.rename(place)
    for number, file in enumerate(sorted(f for f in place.rglob("*") if f.is_file())):
        file.rename(cache / "blobs" / f"{number}")
        file.symlink_to(cache / "blobs" / f"{number}")
    return place


def test_a_bundle_in_the_hubs_cache_is_read_through_its_links(bundle: Path, tmp_path: Path) -> None:
    plain = shutil.copytree(bundle, tmp_path / "plain")
    found = outcomes(in_the_hubs_cache(bundle, tmp_path / "datasets--x--y"), tmp_path / "one.atlas")
    assert found == outcomes(Path(plain), tmp_path / "two.atlas")
    assert {how for _, _, how in found} == {"stored"}


def test_a_link_out_of_the_hubs_cache_is_refused(bundle: Path, tmp_path: Path) -> None:
    place = in_the_hubs_cache(bundle, tmp_path / "datasets--x--y")
    shutil.copy(place / "bundle.json", tmp_path / "elsewhere.json")
    (place / "bundle.json").unlink()
    (place / "bundle.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(IntegrityError, match="bundle.json is a link"):
        outcomes(place, tmp_path / "one.atlas")


def test_no_path_of_the_machine_is_in_a_bundle(origin: Path, bundle: Path) -> None:
    for name, content in tree(bundle).items():
        assert b"/home/ada" not in content and b"/data/models" not in content, name
        assert WEIGHTS.encode() not in content and str(origin.parent).encode() not in content, name
    job = json.loads((a_run(bundle) / "manifest.json").read_text())["run"]["job"]
    assert job == {"seed": 1, "weights": "tiny", "classes": ["/m/01g317", "a/b"]}


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("/home/ada/x.jpg", "x.jpg"),
        ("cannot read '/tmp/a b/x.jpg': cut", "cannot read 'a b/x.jpg': cut"),
        ("file:///home/ada/x", "x"),
        ("~/models/tiny", "tiny"),
        (r"C:\models\tiny", "tiny"),
        ("D:/models/tiny", "tiny"),
        ("/m/01g317", "/m/01g317"),
        ("held_out/0", "held_out/0"),
        ("and/or", "and/or"),
        ("https://host/home/x", "https://host/home/x"),
        ({"/home/ada/k": [1, None, "/tmp/v"]}, {"k": [1, None, "v"]}),
    ],
)
def test_what_counts_as_a_path(text: Any, left: Any) -> None:
    assert portable(text) == left


def test_media_named_by_their_place_on_the_machine_are_refused(empty: Path, make_run: Any, tmp_path: Path) -> None:
    run = make_run(1)
    table = run.tables["examples"]
    at = table.schema.get_field_index("media")
    run.tables["examples"] = table.set_column(at, table.schema.field(at), [[["/home/ada/x.jpg"]]])
    with engine.connect_writer(empty) as connection:
        load_run(connection, run.write(empty))
    with pytest.raises(UsageError, match="by absolute paths"):
        export(empty, tmp_path / "b")
    assert not (tmp_path / "b").exists() and not (tmp_path / ".b.partial").exists()


def test_an_export_does_not_replace_anything(origin: Path, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    with pytest.raises(UsageError, match="already exists"):
        export(origin, tmp_path / "b")


def test_a_damaged_run_is_not_exported(origin: Path, tmp_path: Path) -> None:
    file = a_run(origin) / "scores.parquet"
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    for choice in (Choice(), Choice(concept=("dog",))):
        with pytest.raises(IntegrityError, match="sha256"):
            export(origin, tmp_path / "b", choice)
        assert not (tmp_path / "b").exists()


def test_the_card_is_one_that_the_hub_reads(bundle: Path) -> None:
    import yaml

    _, front, text = (bundle / "README.md").read_text().split("---\n", 2)
    found = yaml.safe_load(front)
    assert found["license"] == ["cc0-1.0"]
    tables = {config["config_name"]: config["data_files"] for config in found["configs"]}
    assert tables["scores"] == "runs/*/scores.parquet"
    assert all(list(bundle.glob(pattern)) for pattern in tables.values())
    for word in (
        "tiny",
        "scenes",
        "CC0",
        "contribution",
        "2 runs",
        "6 maps",
        "96 scores",
        "3 edits",
        "1 selection",
        "Pan et al.",
    ):
        assert word in text, word


# Merging


def test_what_is_there_already_is_left(origin: Path, bundle: Path, dump: Dump) -> None:
    before = dump(origin)
    assert {o for _, _, o in outcomes(bundle, origin)} == {"already there"}
    assert dump(origin) == before, "also where the origin's data lie"


def test_an_import_does_not_forget_where_a_dataset_lies(empty: Path, bundle: Path, make_run: Any, dump: Dump) -> None:
    run = make_run(7)
    run.head["dataset"]["path"] = "/here"
    with engine.connect_writer(empty) as connection:
        load_run(connection, run.write(empty))
    assert {o for _, _, o in outcomes(bundle, empty)} == {"stored"}
    assert [row[2] for row in dump(empty)["datasets"]] == ["/here"]
    assert check(empty) == []


def test_a_run_with_other_content_stays_as_it_is(origin: Path, bundle: Path, make_run: Any, dump: Dump) -> None:
    run = make_run(1)
    labels = run.tables["labels"]
    at = labels.schema.get_field_index("label")
    rerun(origin, run, {"labels": labels.set_column(at, labels.schema.field(at), [["mine"]])})
    before = dump(origin)
    came = import_bundle(bundle, origin)
    assert [c.outcome for c in came].count("refused") == 1
    assert dump(origin) == before
    with pytest.raises(IntegrityError, match="1 run of the bundle was refused.*other content"):
        require_all(came)


@pytest.mark.parametrize(
    ("head", "match"),
    [
        ({"model": {"width": 16}}, "another width"),
        ({"dataset": {"licence": "MIT"}}, "another licence"),
        ({"concepts": {"forms": ["pup"]}}, "needs a new revision"),
    ],
)
def test_what_is_known_otherwise_is_refused(
    empty: Path, bundle: Path, make_run: Any, dump: Dump, head: dict[str, Any], match: str
) -> None:
    run = make_run(7, **head.get("model", {}))
    run.head["dataset"] |= head.get("dataset", {})
    for concept in run.head["concepts"]:
        concept |= head.get("concepts", {})
    with engine.connect_writer(empty) as connection:
        load_run(connection, run.write(empty))
    before = dump(empty)["maps"]
    came = [c for c in import_bundle(bundle, empty) if c.kind == "run"]
    assert {c.outcome for c in came} == {"refused"} and all(match in c.note for c in came)
    assert dump(empty)["maps"] == before
    assert check(empty) == []


def test_an_edit_of_a_taken_name_becomes_the_next_version(empty: Path, bundle: Path, make_run: Any) -> None:
    with engine.connect_writer(empty) as connection:
        load_run(connection, make_run(1).write(empty))
    add_edit(empty, "soft", 0.75)
    add_selection(empty, "dogs", "0/0")
    came = {c.name: c for c in import_bundle(bundle, empty)}
    assert (came["soft@3"].outcome, came["soft@3"].note) == ("renamed", "soft@1 is another edit here")
    assert came["soft@2"].outcome == came["swap@1"].outcome == "stored"
    assert (came["dogs-2"].outcome, came["dogs-2"].note) == ("renamed", "dogs is taken")
    made = read_edit(empty / "edits" / "soft@3.json")
    assert made.changes[0].gain == 0.5 and made.provenance["imported"] == "soft@1"
    assert read_edit(empty / "edits" / "soft@1.json").changes[0].gain == 0.75
    assert check(empty) == []
    files = tree(empty / "edits") | tree(empty / "selections")
    again = {c.name: c.outcome for c in import_bundle(bundle, empty) if c.kind != "run"}
    assert again == {
        "soft@3": "already there",
        "soft@2": "already there",
        "swap@1": "already there",
        "dogs-2": "already there",
    }
    assert tree(empty / "edits") | tree(empty / "selections") == files


def test_a_damaged_edit_or_selection_here_is_another_one(origin: Path, bundle: Path) -> None:
    for name in ("edits/soft@1.json", "selections/dogs.json"):
        (origin / name).write_text("{")
    came = {c.name: c.outcome for c in import_bundle(bundle, origin)}
    assert (came["soft@3"], came["dogs-2"]) == ("renamed", "renamed")
    assert (origin / "edits" / "soft@1.json").read_text() == "{", "nothing is mended unasked"


def test_effects_of_another_edit_of_the_same_name_are_refused(
    empty: Path, make_run: Any, tmp_path: Path, dump: Dump
) -> None:
    for seed, digest_ in ((1, "a" * 64), (2, "b" * 64)):
        run = make_run(seed)
        run.head["run"]["job"]["intervention"] = digest_
        path = tmp_path / f"{seed}.atlas"
        create.init(path)
        with engine.connect_writer(path) as connection:
            load_run(connection, run.write(path))
    folder = export(tmp_path / "1.atlas", tmp_path / "b").folder
    (came,) = import_bundle(folder, tmp_path / "2.atlas")
    assert came.outcome == "refused" and "no-dog@1, which is another edit here" in came.note
    assert len(dump(tmp_path / "2.atlas")["runs"]) == 1
    assert [c.outcome for c in import_bundle(folder, empty)] == ["stored"]


def test_the_remains_of_an_interrupted_run_give_way(bundle: Path, empty: Path) -> None:
    left = empty / "runs" / a_run(bundle).name
    left.mkdir()
    (left / "scores.parquet").write_bytes(b"half")
    assert {o for _, _, o in outcomes(bundle, empty)} == {"stored"}
    assert check(empty) == []


def test_a_run_that_is_being_computed_is_left_alone(bundle: Path, empty: Path, dump: Dump) -> None:
    import fcntl

    left = empty / "runs" / a_run(bundle).name
    left.mkdir()
    with (left / "lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(StoreUnavailable, match="running"):
            import_bundle(bundle, empty)
    assert [f.name for f in left.iterdir()] == ["lock"]
    assert {o for _, _, o in outcomes(bundle, empty)} == {"stored"}
    assert check(empty) == []


def test_an_atlas_that_is_in_use_is_not_changed(bundle: Path, empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atlas.share.import_bundle.PATIENCE", 0.1)
    hold = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print(1, flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", hold, str(database.database_file(empty))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(StoreUnavailable, match="is writing"):
            import_bundle(bundle, empty)
        process.communicate()
    assert not list((empty / "runs").iterdir()) and not list(empty.glob(".import*"))


def test_a_run_of_an_older_program_is_converted(bundle: Path, tmp_path: Path, dump: Dump) -> None:
    import_bundle(bundle, tmp_path / "now.atlas")
    older(a_run(bundle))
    sign(bundle)
    change(bundle / "bundle.json", schema="0003")
    assert {o for _, _, o in outcomes(bundle, tmp_path / "old.atlas")} == {"stored"}
    assert dump(tmp_path / "old.atlas") == dump(tmp_path / "now.atlas")
    assert check(tmp_path / "old.atlas") == []


# A part of an atlas

WHOLE = """SELECT c.name, m.* EXCLUDE (map_id, run_id, concept_id, model_id), s.* EXCLUDE (map_id)
    FROM maps m JOIN scores s USING (map_id) LEFT JOIN concepts c USING (concept_id) WHERE {} ORDER BY ALL"""


def asked(path: Path, query: str) -> list[tuple[Any, ...]]:
    with database.open_readonly(path) as connection:
        return connection.execute(query).fetchall()


def test_an_extract_has_the_chosen_maps_and_what_they_need(origin: Path, tmp_path: Path) -> None:
    found = export(origin, tmp_path / "b", Choice(concept=("dog", "ho*")))
    assert [r["kind"] for r in found.runs] == ["extract", "extract"]
    assert {o for _, _, o in outcomes(tmp_path / "b", tmp_path / "x.atlas")} == {"stored"}
    assert check(tmp_path / "x.atlas") == []
    rows = asked(tmp_path / "x.atlas", WHOLE.format("true"))
    assert rows == asked(origin, WHOLE.format("c.name IN ('dog', 'horse')")) and len(rows) == 32
    for query in (
        "SELECT * EXCLUDE (model_id) FROM decodings",
        "SELECT * EXCLUDE (run_id) FROM exemplars ORDER BY ALL",
        "SELECT name, forms, supercategory FROM concepts WHERE name <> 'cat' ORDER BY ALL",
    ):
        assert asked(tmp_path / "x.atlas", query) == asked(origin, query) != []
    jobs = [json.loads(row[0]) for row in asked(tmp_path / "x.atlas", "SELECT job FROM runs ORDER BY finished_at")]
    originals = [r[0] for r in asked(origin, "SELECT run_id FROM runs ORDER BY finished_at")]
    assert [job["of"]["run_id"] for job in jobs] == originals
    assert jobs[0]["of"]["job"]["seed"] == 1 and jobs[0]["filter"] == {"concept": ["dog", "ho*"]}
    export(origin, tmp_path / "c", Choice(concept=("ho*", "dog")))
    assert tree(tmp_path / "c") == tree(tmp_path / "b"), "the same choice is the same extract"
    other = export(origin, tmp_path / "d", Choice(concept=("dog",)))
    assert not {r["run_id"] for r in other.runs} & {r["run_id"] for r in found.runs}


def test_edits_and_selections_of_other_concepts_and_methods_stay(origin: Path, tmp_path: Path) -> None:
    def map_of(concept: str, method: str = "contribution") -> dict[str, str]:
        return {"model": WEIGHTS, "concept": concept, "method": method, "tap": "product"}

    add_edit(origin, "no-cat", 0.0, concept="cat")
    add_edit(origin, "loud", 2.0, maps=[map_of("dog", "activation")])
    add_edit(origin, "both", 2.0, maps=[map_of("dog"), map_of("cat")])
    everything = export(origin, tmp_path / "a", Choice())
    assert everything.edits == ["both@1", "loud@1", "no-cat@1", "soft@1", "soft@2", "swap@1"]
    dogs = export(origin, tmp_path / "b", Choice(concept=("dog",)))
    assert dogs.edits == ["loud@1", "soft@1", "soft@2", "swap@1"] and dogs.selections == ["dogs"]
    found = export(origin, tmp_path / "c", Choice(concept=("dog",), method=("contribution",)))
    assert found.edits == ["soft@1", "soft@2", "swap@1"] and found.selections == ["dogs"]
    cats = export(origin, tmp_path / "d", Choice(concept=("cat",)))
    assert cats.edits == ["no-cat@1"] and cats.selections == []


def test_a_choice_of_maps_leaves_what_is_not_theirs(origin: Path, tmp_path: Path) -> None:
    found = export(origin, tmp_path / "b", Choice(concept=("*",), source=("image",), edits=False))
    import_bundle(found.folder, tmp_path / "x.atlas")
    assert asked(tmp_path / "x.atlas", "SELECT count(*) FROM maps") == [(6,)], "* also means the map of all concepts"
    for table in ("edits", "effects", "labels", "measures", "points"):
        assert asked(tmp_path / "x.atlas", f"SELECT count(*) FROM {table}") == [(0,)]
    assert found.edits == found.selections == []


def test_what_a_chosen_run_left_to_another_comes_along(origin: Path, tmp_path: Path, make_run: Any) -> None:
    found = export(origin, tmp_path / "b", Choice(run=(make_run(2).run_id[:6],)))
    assert [(r["kind"], r["maps"]) for r in sorted(found.runs, key=lambda r: r["kind"])] == [
        ("extract", 0),
        ("ingest", 3),
    ]
    assert {o for _, _, o in outcomes(found.folder, tmp_path / "x.atlas")} == {"stored"}
    assert asked(tmp_path / "x.atlas", "SELECT tokens FROM decodings") == [([" dog", "Ġdog's"],)]
    assert check(tmp_path / "x.atlas") == []
    rest = export(origin, tmp_path / "c")
    assert {o for _, _, o in outcomes(rest.folder, tmp_path / "x.atlas")} == {"stored", "already there"}
    assert check(tmp_path / "x.atlas") == []


@pytest.mark.parametrize(
    ("choice", "match"),
    [
        ({"concept": ("dgo",)}, "did you mean 'dog'"),
        ({"method": ("contributoin",)}, "did you mean 'contribution'"),
        ({"model": ("tinny",)}, "did you mean 'tiny'"),
        ({"kind": ("evaluate",)}, "no kind called 'evaluate'"),
        ({"run": ("ffff",)}, "no finished run called 'ffff'"),
        ({"concept": ("dog",), "source": ("text",)}, "no source called 'text'"),
    ],
)
def test_a_choice_of_nothing_says_what_there_is(
    origin: Path, tmp_path: Path, choice: dict[str, Any], match: str
) -> None:
    with pytest.raises(UsageError, match=match):
        export(origin, tmp_path / "b", Choice(**choice))
    assert list(tmp_path.iterdir()) == [origin]


def test_measures_of_a_concept_that_stays_behind_are_refused(empty: Path, make_run: Any, tmp_path: Path) -> None:
    first, second = make_run(1, concepts=("dog",)), make_run(2, concepts=("cat",))
    effects = second.tables["effects"]
    at = effects.schema.get_field_index("concept")
    second.tables["effects"] = effects.set_column(at, effects.schema.field(at), [["dog"]])
    with engine.connect_writer(empty) as connection:
        for run in (first, second):
            load_run(connection, run.write(empty))
    with pytest.raises(UsageError, match="measures 'dog'"):
        export(empty, tmp_path / "b", Choice(run=(second.run_id,)))
    export(empty, tmp_path / "b", Choice(run=(first.run_id, second.run_id)))


# Tampering

LOUD = {"name": "a\ud800", "deep": "[" * 100_000}


def rename_entry(bundle: Path, name: str) -> None:
    whole = said(bundle)
    files = whole["files"]
    files[name] = next(iter(files.values()))
    write(bundle / "bundle.json", whole)


def in_entry(bundle: Path, **fields: Any) -> None:
    whole = said(bundle)
    next(v for k, v in whole["files"].items() if k.endswith("scores.parquet")).update(fields)
    write(bundle / "bundle.json", whole)


def in_manifest(bundle: Path, part: str, **fields: Any) -> None:
    file = a_run(bundle) / "manifest.json"
    write(file, (old := json.loads(file.read_text())) | {part: {**old[part], **fields}})
    sign(bundle)


def concepts_called(bundle: Path, name: str) -> None:
    """The last concept of a run has another name."""
    file = a_run(bundle) / "manifest.json"
    concepts = json.loads(file.read_text())["concepts"]
    change(file, concepts=[*concepts[:-1], concepts[-1] | {"name": name}])
    sign(bundle)


def in_rows(bundle: Path, table: str, column: str, value: Callable[[list[Any]], list[Any]]) -> None:
    rewrite(a_run(bundle) / f"{table}.parquet", column, value)
    sign(bundle)


def replaced_by(bundle: Path, make: Callable[[Path], Any]) -> None:
    file = a_run(bundle) / "scores.parquet"
    file.rename(bundle.parent / "real.parquet")
    make(file)


def linked_folder(bundle: Path) -> None:
    run = a_run(bundle)
    run.rename(bundle.parent / "elsewhere")
    run.symlink_to(bundle.parent / "elsewhere")


def in_edit(bundle: Path, label: str, **fields: Any) -> None:
    change(bundle / "edits" / f"{label}.json", **fields)
    sign(bundle)


def changes(bundle: Path, **fields: Any) -> dict[str, Any]:
    return json.loads((bundle / "edits" / "soft@1.json").read_text())["changes"] | fields


def other_edit_name(bundle: Path) -> None:
    (bundle / "edits" / "soft@1.json").rename(bundle / "edits" / "soft@9.json")
    whole = said(bundle)
    whole["files"]["edits/soft@9.json"] = whole["files"].pop("edits/soft@1.json")
    whole["edits"] = ["soft@2", "soft@9", "swap@1"]
    write(bundle / "bundle.json", whole)


def without_tensors(bundle: Path) -> None:
    next((bundle / "edits").glob("*.safetensors")).unlink()
    sign(bundle)


def an_outsider(bundle: Path, name: str) -> None:
    (bundle / name).parent.mkdir(parents=True, exist_ok=True)
    (bundle / name).write_bytes(b"x")
    rename_entry(bundle, name)


def bytes_of(bundle: Path, content: bytes) -> None:
    (bundle / "bundle.json").write_bytes(content)


TAMPERED: dict[str, tuple[Callable[[Path], Any], type[AtlasError], str]] = {
    "a changed byte": (
        lambda b: rewrite(a_run(b) / "scores.parquet", "rank", lambda v: v[::-1]),
        IntegrityError,
        "does not match",
    ),
    "an edit changed": (lambda b: swapped(b / "edits" / "soft@1.json", "0.5", "0.6"), IntegrityError, "sha256"),
    "a selection changed": (lambda b: swapped(b / "selections" / "dogs.json", "1/3", "1/2"), IntegrityError, "sha256"),
    "a job changed": (
        lambda b: swapped(a_run(b) / "manifest.json", '"seed": 1', '"seed": 2'),
        IntegrityError,
        "sha256",
    ),
    "a cut file": (lambda b: os.truncate(a_run(b) / "scores.parquet", 99), IntegrityError, "does not match"),
    "a missing file": (lambda b: (a_run(b) / "scores.parquet").unlink(), IntegrityError, "is missing"),
    "a changed manifest": (
        lambda b: change(a_run(b) / "manifest.json", schema="0003"),
        IntegrityError,
        "does not match",
    ),
    "a link to a file": (
        lambda b: replaced_by(b, lambda f: f.symlink_to(b.parent / "real.parquet")),
        IntegrityError,
        "is a link",
    ),
    "a link to a folder": (linked_folder, IntegrityError, "is a link"),
    "a pipe": (lambda b: replaced_by(b, lambda f: os.mkfifo(f)), IntegrityError, "is not a plain file"),
    "a folder": (lambda b: replaced_by(b, lambda f: f.mkdir()), IntegrityError, "is not a plain file"),
    "bundle.json a link": (
        lambda b: ((b / "bundle.json").rename(b / "x"), (b / "bundle.json").symlink_to("x")),
        IntegrityError,
        "is a link",
    ),
    "a name above": (lambda b: rename_entry(b, "runs/../../x.parquet"), IntegrityError, "no bundle can have"),
    "an absolute name": (lambda b: rename_entry(b, "/etc/passwd"), IntegrityError, "no bundle can have"),
    "a drive": (lambda b: rename_entry(b, "C:/x.json"), IntegrityError, "no bundle can have"),
    "a backslash": (lambda b: rename_entry(b, "selections\\x.json"), IntegrityError, "no bundle can have"),
    "a line feed": (lambda b: rename_entry(b, "selections/x.json\n"), IntegrityError, "no bundle can have"),
    "a database": (lambda b: an_outsider(b, "atlas.duckdb"), IntegrityError, "no bundle can have"),
    "an index": (lambda b: an_outsider(b, "vectors/x.faiss"), IntegrityError, "no bundle can have"),
    "an unknown table": (
        lambda b: an_outsider(b, f"runs/{'a' * 64}/edits.parquet"),
        IntegrityError,
        "no bundle can have",
    ),
    "a hidden selection": (lambda b: an_outsider(b, "selections/.x.json"), IntegrityError, "no bundle can have"),
    "a size of no number": (lambda b: in_entry(b, bytes=True), IntegrityError, "no size"),
    "a size below zero": (lambda b: in_entry(b, bytes=-1), IntegrityError, "no size"),
    "a claim of petabytes": (lambda b: in_entry(b, bytes=1 << 60), IntegrityError, "does not match"),
    "a claim beyond numbers": (lambda b: in_entry(b, bytes=10**30), IntegrityError, "no size"),
    "a sum of no digits": (lambda b: in_entry(b, sha256="x" * 64), IntegrityError, "impossible"),
    "a newer schema": (lambda b: change(b / "bundle.json", schema="9999"), StoreUnavailable, "newer than"),
    "a newer form": (lambda b: change(b / "bundle.json", format=FORMAT + 1), StoreUnavailable, "--upgrade"),
    "no form": (lambda b: change(b / "bundle.json", format="1"), IntegrityError, "format"),
    "no schema": (lambda b: change(b / "bundle.json", schema=4), IntegrityError, "does not name a schema"),
    "no text": (lambda b: bytes_of(b, b"\xff\xfe{}"), IntegrityError, "damaged"),
    "no JSON": (lambda b: bytes_of(b, b"{"), IntegrityError, "damaged"),
    "no object": (lambda b: bytes_of(b, b"[]"), IntegrityError, "is not an object"),
    "not a number": (lambda b: bytes_of(b, b'{"format": NaN}'), IntegrityError, "not a JSON number"),
    "a number too long": (lambda b: bytes_of(b, b'{"format": ' + b"9" * 5000 + b"}"), IntegrityError, "damaged"),
    "a deep nest": (lambda b: bytes_of(b, b"[" * 200_000), IntegrityError, "damaged"),
    "half a character": (lambda b: bytes_of(b, b'{"a": "\\ud800"}'), IntegrityError, "damaged"),
    "files of no form": (lambda b: change(b / "bundle.json", files=[]), IntegrityError, "has no list of files"),
    "a run without files": (
        lambda b: change(b / "bundle.json", runs=[]),
        IntegrityError,
        "lists runs that do not match its files",
    ),
    "runs of no form": (
        lambda b: change(b / "bundle.json", runs=[{"run_id": 3}]),
        IntegrityError,
        "that are not names",
    ),
    "an edit without file": (
        lambda b: change(b / "bundle.json", edits=["a@1"]),
        IntegrityError,
        "lists edits that do not match its files",
    ),
    "another run's id": (lambda b: in_manifest(b, "run", run_id="ab" * 16), IntegrityError, "belongs to run"),
    "a run unfinished": (lambda b: in_manifest(b, "run", finished_at=None), IntegrityError, "finished_at"),
    "a model of a trillion": (lambda b: in_manifest(b, "model", layers=2**31 - 1), IntegrityError, "layers of"),
    "a model too small": (lambda b: in_manifest(b, "model", width=2), IntegrityError, "beyond the model"),
    "a concept that stands for all": (lambda b: concepts_called(b, "*"), IntegrityError, r"a concept called '\*'"),
    "a concept without a name": (lambda b: concepts_called(b, " "), IntegrityError, "a concept called ' '"),
    "a table unnamed": (lambda b: in_manifest(b, "files", **{"edits.parquet": {}}), IntegrityError, "is not a shard"),
    "no files": (
        lambda b: (change(a_run(b) / "manifest.json", files=None), sign_only(b)),
        IntegrityError,
        "damaged|object",
    ),
    "ranks reversed": (lambda b: in_rows(b, "scores", "rank", lambda v: v[::-1]), IntegrityError, "agree with itself"),
    "a score of no number": (
        lambda b: in_rows(b, "scores", "score", lambda v: [float("nan"), *v[1:]]),
        IntegrityError,
        "not finite",
    ),
    "a neuron twice": (lambda b: in_rows(b, "scores", "neuron", lambda v: [v[1], *v[1:]]), IntegrityError, "count up"),
    "a map of nowhere": (
        lambda b: in_rows(b, "scores", "map_id", lambda v: [*v[:-1], 77]),
        IntegrityError,
        "local ids",
    ),
    "a concept of nowhere": (
        lambda b: in_rows(b, "maps", "concept_id", lambda v: [9 for _ in v]),
        IntegrityError,
        "local ids",
    ),
    "more kept than there": (
        lambda b: in_rows(b, "maps", "kept", lambda v: [10**6 for _ in v]),
        IntegrityError,
        "its maps have",
    ),
    "an exemplar of nothing": (
        lambda b: in_rows(b, "exemplars", "example_id", lambda v: ["e" * 32]),
        IntegrityError,
        "agree with itself",
    ),
    "rows of another run": (
        lambda b: in_rows(b, "labels", "run_id", lambda v: ["ab" * 16]),
        IntegrityError,
        "in every row",
    ),
    "effects of no edit": (
        lambda b: in_rows(b, "effects", "edit", lambda v: ["no-dog@x"]),
        IntegrityError,
        "is not an edit's label",
    ),
    "no Parquet": (
        lambda b: ((a_run(b) / "labels.parquet").write_bytes(b"PAR1 nothing PAR1"), sign(b)),
        IntegrityError,
        "damaged|not an object",
    ),
    "an edit's other name": (other_edit_name, IntegrityError, "not soft@9"),
    "an edit of no neuron": (
        lambda b: in_edit(b, "soft@1", changes=changes(b, layer=5)),
        IntegrityError,
        r"edits/soft@1\.json is damaged: its model has no neuron",
    ),
    "an edit of no number": (
        lambda b: in_edit(b, "soft@1", changes=changes(b, gain="1e999")),
        IntegrityError,
        "damaged",
    ),
    "an edit of a billion": (
        lambda b: in_edit(b, "soft@1", changes=changes(b, count=10**18)),
        IntegrityError,
        "damaged",
    ),
    "an edit without deltas": (without_tensors, IntegrityError, "damaged"),
    "a selection of nothing": (
        lambda b: (change(b / "selections" / "dogs.json", neurons=[]), sign(b)),
        IntegrityError,
        "damaged",
    ),
}


def bomb(bundle: Path, column: str, rows: int, text: str) -> None:
    """Labels that are small as a file and large when they are read, with sums and numbers that agree."""
    file = a_run(bundle) / "labels.parquet"
    schema_of = pq.read_schema(file)
    one = pq.read_table(file).slice(0, 1).to_pylist()[0] | {column: text}
    table = pa.table(
        {
            n: pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([one[n]], t))
            if pa.types.is_string(t)
            else pa.array([one[n]] * rows, t)
            for n, t in zip(schema_of.names, schema_of.types, strict=True)
        }
    )
    with pq.ParquetWriter(file, table.schema, compression="zstd", store_schema=False) as writer:
        writer.write_table(table)
    assert file.stat().st_size < 150_000
    sign(bundle)


BOMBS: dict[str, Any] = {
    "many rows": (lambda b: bomb(b, "label", 5_000_000, "x"), "a row group of 1,048,576 rows"),
    "one text again and again": (lambda b: bomb(b, "label", 5000, "x" * 1_000_000), "too many|too much memory"),
    "a long text": (lambda b: bomb(b, "label", 1, "x" * 300_000_000), "expands to too many"),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_small_file_that_is_large_when_it_is_read_is_refused_unread(bundle: Path, tmp_path: Path, kind: str) -> None:
    tamper, match = BOMBS[kind]
    tamper(bundle)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(IntegrityError, match=match):
        import_bundle(bundle, tmp_path / "new.atlas")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB
    assert not (tmp_path / "new.atlas").exists()


def swapped(file: Path, old: str, new: str) -> None:
    """Change a file and not its size."""
    text = file.read_text()
    assert text.count(old) == 1 and len(old) == len(new)
    file.write_text(text.replace(old, new))


def sign_only(bundle: Path) -> None:
    from bundles import entry

    whole = said(bundle)
    write(bundle / "bundle.json", whole | {"files": {n: entry(bundle / n) for n in whole["files"]}})


@pytest.mark.parametrize("kind", TAMPERED)
def test_a_bundle_that_was_tampered_with_is_refused(bundle: Path, tmp_path: Path, kind: str) -> None:
    tamper, error, match = TAMPERED[kind]
    tamper(bundle)
    with pytest.raises(error, match=match) as caught:
        import_bundle(bundle, tmp_path / "new.atlas")
    assert not (tmp_path / "new.atlas").exists()
    assert "\n" not in str(caught.value) and ".import" not in str(caught.value), "it speaks of the bundle"


def test_a_refused_bundle_leaves_an_atlas_as_it_was(bundle: Path, empty: Path, dump: Dump) -> None:
    before, files = dump(empty), sorted(empty.rglob("*"))
    in_rows(bundle, "scores", "rank", lambda v: v[::-1])
    with pytest.raises(IntegrityError):
        import_bundle(bundle, empty)
    assert dump(empty) == before and sorted(empty.rglob("*")) == files


def test_no_bundle_is_a_clear_request(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none", Path(__file__)):
        with pytest.raises(UsageError, match="there is no bundle"):
            import_bundle(folder, tmp_path / "new.atlas")
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_listed_is_not_taken(bundle: Path, tmp_path: Path) -> None:
    (bundle / "atlas.duckdb").write_bytes(b"x")
    (bundle / "runs" / ("ab" * 16)).mkdir()
    (bundle / "README.md").write_text("changed on the Hub")
    import_bundle(bundle, tmp_path / "new.atlas")
    assert check(tmp_path / "new.atlas") == []
    assert len(list((tmp_path / "new.atlas" / "runs").iterdir())) == 2


def test_any_bytes_are_a_listing_or_refused(bundle: Path) -> None:
    """Bytes cut, doubled and changed at random, and every value of the form replaced by every wrong one."""
    content = (bundle / "bundle.json").read_bytes()
    generator, refused = random.Random(0), 0
    for _ in range(MUTATIONS):
        changed = bytearray(content)
        for _ in range(generator.randint(1, 4)):
            at = generator.randrange(len(changed))
            changed[at : at + generator.randint(0, 3)] = generator.randbytes(generator.randint(0, 3))
        refused += _refused(bytes(changed))
    assert refused > MUTATIONS / 4
    for key in said(bundle):
        for value in (None, True, -1, 1.5, 10**40, "", "x", [], [[]], [None], {}, {"a": {}}, {"": 0}):
            _refused(json.dumps(said(bundle) | {key: value}).encode())


def _refused(content: bytes) -> bool:
    try:
        parse_listing(content, "here")
    except AtlasError:
        return True
    return False
