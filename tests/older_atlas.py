"""An atlas as schema 0002 had it, made from one of today: what a user has who upgrades."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from safetensors.numpy import save_file

from atlas.store import engine, migrations
from atlas.store.atomic import sha256
from atlas.store.database import database_file

REVISION = "0002"


def older_atlas(new: Path, path: Path, run_id: str) -> Path:
    """One run of an atlas and one edit, in tables, shards and files of the older form. Scores lay best first."""
    shutil.copytree(new / "runs" / run_id, path / "runs" / run_id)
    _older_shards(path / "runs" / run_id)
    with engine.connect_any_version(path, read_only=False, create=True) as connection:
        with connection.begin():
            migrations.migrate(connection, REVISION)
        _copy(engine.raw(connection), new, run_id)
    _older_edit(path)
    return path


def older_decodings(table: pa.Table) -> pa.Table:
    """Decoded tokens as before 0007: plain and through the norm, told apart by a boolean."""
    table = table.filter(pc.not_equal(table["projection"], "z"))
    norm = pc.equal(table["projection"], "norm")
    table = table.set_column(table.column_names.index("projection"), pa.field("norm", pa.bool_(), nullable=False), norm)
    return table.rename_columns(["logits" if name == "values" else name for name in table.column_names])


def _older_shards(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    maps = pq.read_table(folder / "maps.parquet").drop_columns(["kept"])
    scores = pq.read_table(folder / "scores.parquet").sort_by([("map_id", "ascending"), ("rank", "ascending")])
    tables = {"maps": maps, "scores": scores}
    if (folder / "effects.parquet").exists():
        tables["effects"] = pq.read_table(folder / "effects.parquet").drop_columns(
            ["clusters", "effective", "method", "dose", "reduce", "target"]
        )
    if (folder / "decodings.parquet").exists():
        tables["decodings"] = older_decodings(pq.read_table(folder / "decodings.parquet"))
    if (folder / "points.parquet").exists():
        tables["points"] = pq.read_table(folder / "points.parquet").drop_columns(["condition"])
    for name, table in tables.items():
        file = folder / f"{name}.parquet"
        pq.write_table(table, file, compression="zstd")
        manifest["files"][file.name] |= {"rows": table.num_rows, "bytes": file.stat().st_size, "sha256": sha256(file)}
    (folder / "manifest.json").write_text(json.dumps({**manifest, "schema": REVISION}))


def _copy(connection: duckdb.DuckDBPyConnection, new: Path, run_id: str) -> None:
    connection.execute(f"ATTACH '{database_file(new)}' AS new (READ_ONLY)")
    columns = "SELECT table_name, column_name FROM duckdb_columns() WHERE NOT internal AND database_name = "
    mine = connection.execute(columns + "current_database()").fetchall()
    theirs = set(connection.execute(columns + "'new'").fetchall())
    of_run = "map_id IN (SELECT map_id FROM new.maps WHERE run_id = $run)"
    for table in sorted({name for name, _ in mine} - {"alembic_version", "edits", "changes"}):
        names = [column for name, column in mine if name == table and (name, column) in theirs]
        source = f"new.{table}"
        if table == "decodings":
            names += ["norm", "logits"]
            source = (
                f"""(SELECT *, projection = 'norm' AS norm, "values" AS logits FROM {source} WHERE projection <> 'z')"""
            )
        listed = ", ".join(f'"{name}"' for name in names)
        where = f"WHERE {'run_id = $run' if 'run_id' in names else of_run if table == 'scores' else '$run = $run'}"
        order = " ORDER BY map_id, rank" if table == "scores" else ""
        query = f"INSERT INTO {table} ({listed}) SELECT {listed} FROM {source} {where}{order}"
        connection.execute(query, {"run": run_id})
    connection.execute("DETACH new")


def _older_edit(path: Path) -> None:
    """One safetensors file with everything but the numbers in its header, its row, and its changes."""
    count = 3
    with engine.connect_any_version(path, read_only=False) as connection, connection.begin():
        model = dict(connection.exec_driver_sql("SELECT * FROM models").mappings().one())
        number = model.pop("model_id")
        head = {"name": "old", "version": 1, "model": model, "tap": "product", "concept": "dog"}
        head |= {"provenance": {"maps": []}, "created_at": "2026-01-02", "component": ["language"] * count}
        tensors = {"layer": np.ones(count, np.int16), "neuron": np.arange(count, dtype=np.int32)}
        tensors |= {"gain": np.zeros(count, np.float32), "bias": np.full(count, 0.5, np.float32)}
        (path / "edits").mkdir()
        file = path / "edits" / "old@1.safetensors"
        save_file(tensors, file, metadata={"edit": json.dumps(head, sort_keys=True)})
        row = f"(1, 'old', 1, {number}, '{model['fingerprint']}', 'product', 'dog', '{{}}', {count}, '{sha256(file)}'"
        connection.exec_driver_sql(f"INSERT INTO edits VALUES {row}, '2026-01-02')")
        changes = f"SELECT 1, 'language', 1, i, 0, 0.5, 'all', NULL FROM range({count}) AS r(i)"
        connection.exec_driver_sql(f"INSERT INTO changes {changes}")
