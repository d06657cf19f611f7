"""Checks that the database and the files beside it agree. Part of `atlas.maintain.check`.

Rows are compared by the sum of their hashes, which needs no order and little memory; ids that the database assigned are
left out or compared by the name of what they refer to.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Row, Table

from atlas.edits.files import tensors_of
from atlas.errors import IntegrityError
from atlas.maintain.finding import Finding
from atlas.query import saved
from atlas.store import schema
from atlas.store.atomic import sha256
from atlas.store.database import literal
from atlas.store.ledger import DONE, json_text
from atlas.store.run_loader import BY_MAP, SHARED_TABLES
from atlas.store.run_manifest import NAME, OBJECTS, SHARDS, columns, folder_of, read_manifest, shard_rows

_LOCAL = ("map_id", "model_id", "dataset_id", "concept_id")


def runs_agree(connection: Connection, path: Path) -> Iterator[Finding]:
    """Differences between the ledger and runs/, and between each run's rows and its shards."""
    stored = {row.run_id: row for row in connection.execute(sa.select(schema.runs).where(schema.runs.c.status == DONE))}
    shards: dict[tuple[str, int], list[str]] = defaultdict(list)
    for run_id, row in sorted(stored.items()):
        folder = folder_of(path, run_id)
        try:
            manifest = read_manifest(folder)
        except IntegrityError as error:
            yield Finding(f"run {run_id[:12]}", str(error))
            continue
        yield from _run_agrees(connection, row, manifest)
        yield from _own_rows_agree(connection, run_id, folder, manifest)
        for name, names in SHARED_TABLES.items():
            owner = getattr(row, names[0])
            if f"{name}.parquet" in manifest["files"] and owner is not None:
                shards[name, owner].append(
                    shard_rows(SHARDS[name], folder / f"{name}.parquet", str(manifest["schema"]))
                )
    yield from _shared_rows_agree(connection, shards)
    for file in sorted((path / "runs").glob(f"*/{NAME}")):
        if file.parent.name not in stored:
            yield Finding(
                f"run {file.parent.name[:12]}",
                "is complete in runs/ but not in the database; start its job again, or `atlas db rebuild`",
            )


def _run_agrees(connection: Connection, row: Row[Any], manifest: Mapping[str, Any]) -> Iterator[Finding]:
    """The ledger's row, and the model, dataset and concepts it refers to, against the manifest."""
    where = f"run {row.run_id[:12]}"
    for name, value in manifest["run"].items():
        if getattr(row, name) != (json_text(value) if name in OBJECTS else value):
            yield Finding(where, f"its {name} differs from the manifest")
    for name, table, key in (("model", schema.models, "model_id"), ("dataset", schema.datasets, "dataset_id")):
        stored = connection.execute(sa.select(table).where(table.c[key] == getattr(row, key))).mappings().one_or_none()
        # A dataset's path, and the time of the first import, exist only in the database.
        expected = {n: v for n, v in (manifest[name] or {}).items() if n not in ("path", "created_at")}
        if (stored is None) != (manifest[name] is None) or any(stored[n] != v for n, v in expected.items() if stored):
            yield Finding(where, f"its {name} differs from the manifest")
    known = schema.concepts.c
    of_dataset = sa.select(schema.concepts).where(known.dataset_id == row.dataset_id)
    stored_concepts = {c["name"]: c for c in connection.execute(of_dataset).mappings()}
    for concept in manifest["concepts"]:
        stored = stored_concepts.get(concept["name"])
        if stored is None or any(stored[name] != value for name, value in concept.items()):
            yield Finding(where, f"its concept '{concept['name']}' differs from the manifest")


def _own_rows_agree(
    connection: Connection, run_id: str, folder: Path, manifest: Mapping[str, Any]
) -> Iterator[Finding]:
    """Rows that belong only to the run: maps with their scores, exemplars, labels, effects, measures, points."""
    of_run = f"WHERE run_id = {literal(run_id)}"
    revision = str(manifest["schema"])
    names = "[" + ", ".join(literal(concept["name"]) for concept in manifest["concepts"]) + "]"
    for name, table in SHARDS.items():
        if name in SHARED_TABLES or table in BY_MAP:
            continue
        content = _content(table)
        in_shard = in_database = content
        # A map's concept is compared by its name.
        if table is schema.maps:
            in_database = f"{content}, (SELECT name FROM concepts AS c WHERE c.concept_id = maps.concept_id)"
            in_shard = f"{content}, (CAST({names} AS VARCHAR[]))[concept_id + 1]"
        stored = _digest(connection, f"SELECT hash({in_database}) AS h FROM {name} {of_run}")
        file = folder / f"{name}.parquet"
        expected: tuple[int, int | None] = (0, None)
        if file.name in manifest["files"]:
            expected = _digest(connection, f"SELECT hash({in_shard}) AS h FROM ({shard_rows(table, file, revision)})")
        if stored != expected:
            yield _differs(f"run {run_id[:12]}", name, stored[0], expected[0])
    for table in BY_MAP:
        if f"{table.name}.parquet" in manifest["files"]:
            yield from _by_map_agree(connection, table, of_run, folder / f"{table.name}.parquet")


def _by_map_agree(connection: Connection, table: Table, of_run: str, file: Path) -> Iterator[Finding]:
    content = _content(table)
    query = f"""
        SELECT map_id, coalesce(stored.n, 0), coalesce(shard.n, 0), stored.h IS DISTINCT FROM shard.h
        FROM (SELECT map_id, row_number() OVER (ORDER BY map_id) - 1 AS local FROM maps {of_run})
        LEFT JOIN (SELECT map_id, count(*) AS n, sum(hash({content})) AS h FROM {table.name}
                   WHERE map_id IN (SELECT map_id FROM maps {of_run}) GROUP BY map_id) AS stored USING (map_id)
        FULL JOIN (SELECT map_id AS local, count(*) AS n, sum(hash({content})) AS h
                   FROM read_parquet({literal(file.resolve())}) GROUP BY map_id) AS shard USING (local)
        ORDER BY local"""
    for number, stored, expected, differ in connection.exec_driver_sql(query):
        if differ:
            yield _differs(f"map {number}", table.name, stored, expected)


def _shared_rows_agree(connection: Connection, shards: Mapping[tuple[str, int], list[str]]) -> Iterator[Finding]:
    """Rows that runs share: each stored row is in some shard, and each shard's row is stored. shards: SQL for rows."""
    for name, key in SHARED_TABLES.items():
        table, owner = SHARDS[name], key[0]
        query = f"SELECT DISTINCT {owner} FROM {name}"
        owners = {int(number) for number in connection.exec_driver_sql(query).scalars()}
        for number in sorted(owners | {n for t, n in shards if t == name}):
            in_database = f"SELECT *, hash({_content(table)}) AS h FROM {name} WHERE {owner} = {number}"
            rows = " UNION ALL ".join(shards.get((name, number), []))
            in_shards = f"SELECT *, hash({_content(table)}) AS h FROM ({rows})"
            if not rows:
                in_shards = f"SELECT * FROM ({in_database}) WHERE false"
            same = ", ".join(key[1:])
            missing = f"SELECT count(*) FROM ({in_shards}) ANTI JOIN ({in_database}) USING ({same})"
            unexplained = f"SELECT count(*) FROM ({in_database}) ANTI JOIN ({in_shards}) USING (h)"
            problems = {missing: "rows of runs/ are not in the database", unexplained: "rows are in no run folder"}
            for query_of_problem, problem in problems.items():
                count = connection.exec_driver_sql(query_of_problem).scalar_one()
                if count:
                    yield Finding(name, f"{count} {problem} ({owner} {number})")


def edits_agree(connection: Connection, path: Path) -> Iterator[Finding]:
    """Differences between the table of edits, their changes, and edits/."""
    counts = "SELECT edit_id, count(*) FROM changes GROUP BY edit_id"
    changed = {int(number): int(count) for number, count in connection.exec_driver_sql(counts)}
    files = {file.stem: file for file in (path / "edits").glob("*@*.json")}
    named: set[str] = set()
    for row in connection.execute(sa.select(schema.edits).order_by(schema.edits.c.edit_id)):
        where = f"edit {row.name}@{row.version}"
        file = files.pop(f"{row.name}@{row.version}", None)
        if file is None:
            yield Finding(where, "its file is missing from edits/")
        elif sha256(file) != row.sha256:
            yield Finding(where, f"{file} was changed since it was stored (sha256)")
        else:
            named |= tensors_of(file)
            try:
                tensors_of(file, verify=True)
            except IntegrityError as error:
                yield Finding(where, str(error))
        if changed.get(row.edit_id, 0) != row.changes:
            yield Finding(where, f"has {changed.get(row.edit_id, 0)} changes, its row says {row.changes}")
    for file in sorted(files.values()):
        yield Finding("edits", f"{file} is not in the database; `atlas db rebuild` stores it")
        named |= tensors_of(file)
    for file in sorted((path / "edits").glob("*.safetensors")):
        if file.stem not in named:
            yield Finding("edits", f"no edit uses {file}; `atlas db rebuild` removes it")


def selections_agree(path: Path) -> Iterator[Finding]:
    """Saved selections that cannot be read; they exist only as files."""
    for name in saved.names(path):
        try:
            saved.read(saved.file_of(path, name))
        except IntegrityError as error:
            yield Finding(f"selection {name}", str(error))


def _content(table: Table) -> str:
    """The columns that have the same values in every database."""
    return ", ".join(f'"{name}"' for name in columns(table, *_LOCAL))


def _digest(connection: Connection, hashes: str) -> tuple[int, int | None]:
    count, total = connection.exec_driver_sql(f"SELECT count(*), sum(h) FROM ({hashes})").one()
    return int(count), None if total is None else int(total)


def _differs(where: str, table: str, stored: int, expected: int) -> Finding:
    if stored != expected:
        return Finding(where, f"has {stored} {table} in the database and {expected} in runs/")
    return Finding(where, f"its {table} differ from those in runs/")
