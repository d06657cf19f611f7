"""Runs of vectors, stored as `atlas index build` stores them, and brute force over them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from atlas.store import arrow_types, engine, run_loader, run_writer, schema

DIMENSION = 16


def unit(matrix: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(matrix.astype(np.float64), axis=1, keepdims=True)
    return (matrix / np.where(length > 0, length, 1)).astype(np.float32)


def random_vectors(rows: int, seed: int = 0, dimension: int = DIMENSION) -> np.ndarray:
    """Unit vectors around few centres; a few are equal, and two are zeros."""
    generator = np.random.default_rng(seed)
    centres = generator.standard_normal((5, dimension))
    found = unit(centres[generator.integers(5, size=rows)] + 0.4 * generator.standard_normal((rows, dimension)))
    found[rows // 2 : rows // 2 + 4] = found[3]
    found[[7, rows - 1]] = 0
    return found


def store_vectors(
    path: Path, found: np.ndarray, *, width: int, space: str = "decoded", seed: int = 0, model: dict[str, Any]
) -> str:
    """Store vectors of neurons 0/0, 0/1, ... as a finished run; its id."""
    run_id = hashlib.sha256(f"vectors {seed} {space}".encode()).hexdigest()[:32]
    layer, neuron = np.divmod(np.arange(len(found)), width)
    table = pa.table(
        {
            "run_id": [run_id] * len(found),
            "component": ["language"] * len(found),
            "layer": layer.astype(np.int16),
            "neuron": neuron.astype(np.int32),
            "vector": pa.array(list(found), pa.list_(pa.float32())),
        },
        schema=arrow_types.arrow_schema(schema.vectors),
    )
    times = {"started_at": "2026-01-01T00:00:00", "finished_at": f"2026-01-02T00:00:{seed:02}"}
    outcome = {"rows": len(found), "dimension": found.shape[1]}
    run = {"run_id": run_id, "kind": "embed", "job": {"space": space}, "environment": {}, "outcome": outcome, **times}
    head = {"run": run, "model": model, "dataset": None, "concepts": []}
    run_writer.write_run(path / "runs" / run_id, head, {"vectors": table})
    with engine.connect_writer(path) as connection:
        run_loader.load_run(connection, path / "runs" / run_id)
    return run_id


def brute(found: np.ndarray, query: np.ndarray, top: int, skip: int | None = None) -> list[tuple[int, float]]:
    """(row, cosine) of the best, by a loop over all rows that are not zeros; equal ones by row."""
    query = query.astype(np.float64) / np.linalg.norm(query.astype(np.float64))
    values = []
    for row, vector in enumerate(found.astype(np.float64)):
        if row != skip and np.linalg.norm(vector) > 0:
            values.append((row, float(np.float32(sum(a * b for a, b in zip(vector, query, strict=True))))))
    return sorted(values, key=lambda pair: (-pair[1], pair[0]))[:top]
