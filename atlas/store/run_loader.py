"""Load run folders into the database, one transaction per run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import Connection, Table

from atlas.errors import IntegrityError
from atlas.store import ledger
from atlas.store.insert import concept_ids, dataset_id, model_id, next_id, require_schema
from atlas.store.run_manifest import SHARDS, read_manifest, shard_rows, shard_schema
from atlas.store.schema import effects, exemplars, indexes, labels, maps, measures, points, scores, sketches, vectors

SHARED_TABLES = {
    "examples": ("dataset_id", "example_id"),
    "decodings": ("model_id", "component", "layer", "neuron", "projection", "side"),
    "responses": ("model_id", "example_id", "generation"),
}
"""Tables that runs share -> the columns that identify a row; the first row stored is kept."""

BY_MAP = (scores, sketches)
"""Tables whose rows belong to a run through its maps."""


def load_run(connection: Connection, folder: Path) -> str:
    """Store a finished run folder: its rows, the model, dataset and concepts they refer to, and the ledger's row.

    Rows that the database has of this run are replaced. Loading the same folder twice changes nothing.

    Returns:
        The run id.

    Raises:
        IntegrityError: the folder is not complete or is damaged; the transaction must then be rolled back.
    """
    manifest = read_manifest(folder)
    run = manifest["run"]
    model = model_id(connection, manifest["model"]) if manifest["model"] else None
    dataset = dataset_id(connection, manifest["dataset"]) if manifest["dataset"] else None
    ids = {"model_id": str(model or "NULL"), "dataset_id": str(dataset or "NULL")}  # ids start at 1
    if dataset is not None:
        concept_by_name = concept_ids(connection, dataset, manifest["concepts"])
        listed = ", ".join(str(concept_by_name[concept["name"]]) for concept in manifest["concepts"])
        ids["concept_id"] = f"([{listed}])[concept_id + 1]"  # DuckDB counts from 1; null stays null
    first = _first_map(connection, run["run_id"], int(manifest["files"].get("maps.parquet", {"rows": 0})["rows"]))
    ids["map_id"] = f"map_id + {first}"
    forget_run(connection, run["run_id"])
    for name, table in SHARDS.items():
        entry = manifest["files"].get(f"{name}.parquet")
        if entry is not None:
            file = folder / f"{name}.parquet"
            _load_shard(connection, table, file, int(entry["rows"]), ids, str(manifest["schema"]))
    ledger.put(connection, {**run, "status": ledger.DONE, "model_id": model, "dataset_id": dataset})
    return str(run["run_id"])


def _first_map(connection: Connection, run_id: str, count: int) -> int:
    """The id of the run's first map: the stored one if the number of maps is the same, otherwise a new one."""
    query = sa.select(sa.func.min(maps.c.map_id), sa.func.count()).where(maps.c.run_id == run_id)
    first, stored_count = connection.execute(query).one()
    return int(first) if stored_count and stored_count == count else next_id(connection, maps.c.map_id)


def forget_run(connection: Connection, run_id: str) -> None:
    """Remove a run's own rows. Its row in the ledger, and rows that it shares with other runs, stay."""
    of_run = sa.select(maps.c.map_id).where(maps.c.run_id == run_id)
    for table in BY_MAP:
        connection.execute(sa.delete(table).where(table.c.map_id.in_(of_run)))
    for table in (maps, exemplars, labels, effects, measures, points, vectors, indexes):
        connection.execute(sa.delete(table).where(table.c.run_id == run_id))


def _load_shard(
    connection: Connection, table: Table, file: Path, rows: int, ids: Mapping[str, str], revision: str
) -> None:
    import pyarrow.parquet as pq

    require_schema(table, pq.read_schema(file), shard_schema(table, revision))
    names = ", ".join(f'"{column.name}"' for column in table.columns)
    values = ", ".join(f'{ids.get(column.name, _quoted(column.name))} AS "{column.name}"' for column in table.columns)
    # Rows keep their order: scores stay map by map, each in the order of its neurons.
    query = f"SELECT {values} FROM ({shard_rows(table, file, revision)})"
    if table.name in SHARED_TABLES:
        query = (
            f'SELECT * FROM ({query}) AS new ANTI JOIN "{table.name}" USING ({", ".join(SHARED_TABLES[table.name])})'
        )
    count = connection.exec_driver_sql(f'INSERT INTO "{table.name}" ({names}) {query}').scalar_one()
    if count != rows and table.name not in SHARED_TABLES:
        raise IntegrityError(f"{file} has {count} rows, its manifest says {rows}")


def _quoted(name: str) -> str:
    return f'"{name}"'
