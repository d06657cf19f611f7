"""Write a finished run to its folder. The format is described in `atlas.store.run_manifest`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import Table

from atlas.errors import IntegrityError
from atlas.store import arrow_types, database, run_manifest, schema
from atlas.store.atomic import sha256, write_atomically
from atlas.store.insert import require_schema
from atlas.store.run_manifest import SHARDS

Data: TypeAlias = pa.Table | Iterable[pa.RecordBatch]
"""Rows of a shard: a table, or batches where they are too many to hold."""

ROW_GROUP = 122_880  # DuckDB's own size, which its threads store without gaps
_VECTORS = 24_576  # fewer, as a vector may have thousands of numbers
_COUNTING = dict.fromkeys(("map_id", "layer", "neuron", "rank"), "DELTA_BINARY_PACKED")


def group_rows(table: str) -> int:
    """How many rows of a table are written, and read, together."""
    return _VECTORS if table == schema.vectors.name else ROW_GROUP


def write_run(
    folder: Path, head: Mapping[str, Any], tables: Mapping[str, Data], written: Callable[[], None] = lambda: None
) -> Path:
    """Write a finished run to `runs/<run_id>/`: the shards, then the manifest that makes them valid.

    If it is killed, it leaves a folder without a manifest, which a second call replaces.

    head: the manifest's `run`, `model`, `dataset` and `concepts`.
    tables: rows by table name, with local ids (`atlas.store.run_manifest`); maps as one table, the others may stream.
    written: called once the shards are there, before the manifest is written; it may add to the run's outcome.

    Returns:
        The manifest's path.

    Raises:
        IntegrityError: the head or a table has another format, or a score is not finite.
    """
    run_manifest.require_head(head)
    unknown = sorted(set(tables) - set(SHARDS))
    if unknown or folder.name != head["run"]["run_id"]:
        raise IntegrityError(f"run {head['run']['run_id']}: wrong folder {folder.name} or unknown tables {unknown}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / run_manifest.NAME).unlink(missing_ok=True)
    maps = tables.get("maps")
    rules = _Rules(head, maps.num_rows if isinstance(maps, pa.Table) else 0)
    files: dict[str, dict[str, object]] = {}
    for name, table in SHARDS.items():
        file = folder / f"{name}.parquet"
        if name in tables:
            files[file.name] = _write_shard(file, table, tables[name], rules)
        else:
            file.unlink(missing_ok=True)
    written()
    manifest = {"format": run_manifest.FORMAT, "schema": database.VERSION, **head, "files": files}
    text = json.dumps(manifest, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(folder / run_manifest.NAME, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return folder / run_manifest.NAME


def require_rows(folder: Path, head: Mapping[str, Any]) -> None:
    """Refuse an untrusted run folder whose shards violate the rules that `write_run` enforces.

    head: its manifest. Reads every row, a group at a time.

    Raises:
        IntegrityError: another number of rows than in the manifest, other columns, or a row that violates a rule.
    """
    import pyarrow.parquet as pq

    revision = str(head["schema"])
    rules = _Rules(head, int(head["files"].get("maps.parquet", {"rows": 0})["rows"]))
    for name, table in SHARDS.items():
        file, rows = folder / f"{name}.parquet", 0
        if file.name not in head["files"]:
            continue
        with pq.ParquetFile(file) as shard:
            require_schema(table, shard.schema_arrow, run_manifest.shard_schema(table, revision))
            recorded, counted = head["files"][file.name]["rows"], shard.metadata.num_rows
            if recorded != counted:
                raise IntegrityError(f"{file} has {counted} rows, its manifest says {recorded}")
        for group in _current_rows(table, file, revision):
            rules.require(table, group, rows)
            rows += group.num_rows


def _current_rows(table: Table, file: Path, revision: str) -> Iterator[pa.Table]:
    """The rows of a shard with the columns of the current table."""
    import duckdb

    with duckdb.connect() as connection:
        for batch in connection.sql(run_manifest.shard_rows(table, file, revision)).to_arrow_reader(
            group_rows(table.name)
        ):
            yield pa.Table.from_batches([batch]).cast(arrow_types.arrow_schema(table))


def _write_shard(file: Path, table: Table, data: Data, rules: _Rules) -> dict[str, object]:
    import pyarrow.parquet as pq

    rows = 0

    def write(temporary: Path) -> None:
        nonlocal rows
        # Scores are all different: a dictionary would double the file and take five times as long.
        plain = {"use_dictionary": False, "column_encoding": _COUNTING} if table is schema.scores else {}
        with pq.ParquetWriter(temporary, arrow_types.arrow_schema(table), compression="zstd", **plain) as writer:
            for group in _groups(data, group_rows(table.name)):
                require_schema(table, group.schema)
                rules.require(table, group, rows)
                writer.write_table(group.cast(arrow_types.arrow_schema(table)))
                rows += group.num_rows

    write_atomically(file, write)
    return {"rows": rows, "bytes": file.stat().st_size, "sha256": sha256(file)}


def _groups(data: Data, size: int) -> Iterator[pa.Table]:
    if isinstance(data, pa.Table):
        for start in range(0, data.num_rows, size):
            yield data.slice(start, size)
        return
    batches: list[pa.RecordBatch] = []
    rows = 0
    for batch in data:
        batches.append(batch)
        rows += batch.num_rows
        while rows >= size:  # exactly, or DuckDB's row groups would not be full
            table = pa.Table.from_batches(batches)
            yield table.slice(0, size)
            batches = table.slice(size).to_batches()
            rows -= size
    if rows:
        yield pa.Table.from_batches(batches)


class _Rules:
    """Rules for rows of a shard beyond their types: local ids in range, the run's own id, finite numbers."""

    def __init__(self, head: Mapping[str, Any], maps: int) -> None:
        self.run_id = str(head["run"]["run_id"])
        self.below = {
            "map_id": maps,
            "concept_id": len(head["concepts"]),
            "model_id": int(head["model"] is not None),
            "dataset_id": int(head["dataset"] is not None),
        }
        self.concepts = {concept["name"] for concept in head["concepts"]}
        self._last = (0, -1, -1)

    def require(self, table: Table, rows: pa.Table, start: int) -> None:
        """Check rows `start`, `start + 1`, ... of a shard.

        Raises:
            IntegrityError: with the column and what is wrong.
        """
        for column in table.columns:
            values = rows[column.name]
            if values.null_count and not column.nullable:
                self._refuse(table, column.name, "is null in some row")
            if column.name in self.below:
                self._require_below(table, column.name, values.drop_null().to_numpy())
            if pa.types.is_list(values.type):
                values = pc.list_flatten(values)
            if pa.types.is_floating(values.type) and not np.isfinite(values.drop_null().to_numpy()).all():
                self._refuse(table, column.name, "is not finite in some row")
            if column.name == "run_id" and set(values.unique().to_pylist()) - {self.run_id}:
                self._refuse(table, column.name, f"is not {self.run_id} in every row")
        if table is schema.maps and not np.array_equal(rows["map_id"], np.arange(start, start + rows.num_rows)):
            self._refuse(table, "map_id", "does not count 0, 1, 2, ...")
        if table is schema.scores and rows.num_rows:
            self._require_order(table, rows)
        if table is schema.examples:
            unknown = {name for names in rows["concepts"].to_pylist() for name in names} - self.concepts
            if unknown:
                self._refuse(table, "concepts", f"names {sorted(unknown)[:5]}, which the manifest's concepts lack")

    def _require_below(self, table: Table, name: str, values: np.ndarray) -> None:
        if values.size and (values.min() < 0 or values.max() >= self.below[name]):
            self._refuse(table, name, f"is {values.min()} to {values.max()}, local ids are 0 to {self.below[name] - 1}")

    def _require_order(self, table: Table, rows: pa.Table) -> None:
        """Require rows map by map, each ordered by layer and neuron, none twice: rows are found by position."""
        columns = [rows[name].to_numpy().astype(np.int64) for name in ("map_id", "layer", "neuron")]
        ids, layer, neuron = (np.concatenate([[last], c]) for last, c in zip(self._last, columns, strict=True))
        same, step = np.diff(ids) == 0, np.diff(layer)
        if (np.diff(ids) < 0).any():
            self._refuse(table, "map_id", "does not come map by map")
        if (same & ((step < 0) | ((step == 0) & (np.diff(neuron) <= 0)))).any():
            self._refuse(table, "neuron", "does not count up within a layer of a map")
        self._last = (int(ids[-1]), int(layer[-1]), int(neuron[-1]))

    def _refuse(self, table: Table, column: str, problem: str) -> None:
        raise IntegrityError(f"run {self.run_id}: {table.name}.{column} {problem}")
