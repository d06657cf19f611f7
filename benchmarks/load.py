"""Scores into the database by the project's own path, against DuckDB's bare INSERT ... SELECT of the same Parquet."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from _timing import report

from atlas import store
from atlas.database import database
from atlas.load import load_run
from atlas.manifest import folder_of
from atlas.runs import write_run
from atlas.schema import arrow_schema, maps, scores

LAYERS, WIDTH, MAPS = 32, 11_008, 28  # a 7B model's neurons, 9.9 million scores
RUN = "0" * 32


def map_rows() -> pa.Table:
    row = {"run_id": RUN, "model_id": 0, "method": "m", "source": "image", "target": "text", "component": "language"}
    row |= {"reduce": "mean", "tap": "product", "parameters": "{}", "examples": 1, "neurons": LAYERS * WIDTH}
    rows = [{**row, "map_id": i, "concept_id": i, "mean": 0.0, "std": 1.0} for i in range(MAPS)]
    return pa.Table.from_pylist(rows, schema=arrow_schema(maps))


def score_rows() -> Iterator[pa.RecordBatch]:
    generator = np.random.default_rng(0)
    count = LAYERS * WIDTH
    for i in range(MAPS):
        order = generator.permutation(count)
        layer, neuron = np.divmod(order, WIDTH)
        values = np.sort(generator.standard_normal(count).astype(np.float32))[::-1]
        columns = [np.full(count, i, np.int32), layer.astype(np.int16), neuron.astype(np.int32), values.copy()]
        columns.append(np.arange(1, count + 1, dtype=np.int32))
        yield pa.RecordBatch.from_arrays([pa.array(c) for c in columns], schema=arrow_schema(scores))


def head() -> dict[str, Any]:
    moment = "2026-01-01T00:00:00.000+00:00"
    run = {"run_id": RUN, "kind": "ingest", "job": {}, "environment": {}, "outcome": {}}
    model = {"name": "m", "revision": None, "fingerprint": "0", "model_type": "llama", "layers": LAYERS, "width": WIDTH}
    dataset = {"name": "d", "path": None, "revision": "0", "licence": "none", "created_at": moment}
    concept = {"supercategory": None, "category_id": None}
    return {
        "run": {**run, "started_at": moment, "finished_at": moment},
        "model": {**model, "d_model": 4096, "vocabulary": 32000, "created_at": moment},
        "dataset": dataset,
        "concepts": [{"name": f"c{i:03d}", "forms": [f"c{i}"], **concept} for i in range(MAPS)],
    }


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="atlas-load-"))
    try:
        atlas = folder / "x.atlas"
        store.init(atlas)
        run = folder_of(atlas, RUN)
        rows = LAYERS * WIDTH * MAPS
        started = time.perf_counter()
        write_run(run, head(), {"maps": map_rows(), "scores": score_rows()})
        written = time.perf_counter() - started
        started = time.perf_counter()
        with store.connect_writer(atlas) as connection:
            load_run(connection, run)
        loaded = time.perf_counter() - started
        parquet = run / "scores.parquet"
        started = time.perf_counter()
        with duckdb.connect(str(folder / "bare.duckdb")) as bare:
            bare.execute("CREATE TABLE s (map_id INTEGER, layer SMALLINT, neuron INTEGER, score FLOAT, rank INTEGER)")
            bare.execute(f"INSERT INTO s SELECT * FROM read_parquet('{parquet}')")
            bare.execute("CHECKPOINT")
        baseline = time.perf_counter() - started
        size = database(atlas).stat().st_size
        report("load, million rows a second", rows / loaded / 1e6, ">= 8", f"{rows:,} rows, checked, one transaction")
        report("load / bare INSERT ... SELECT of the same file", loaded / baseline, "near 1", f"{baseline:.2f} s bare")
        report("bytes a score in the database", size / rows, "<= 6", f"Parquet {parquet.stat().st_size / rows:.1f}")
        report("write, million rows a second", rows / written / 1e6, "none", "random scores, made in the same time")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
