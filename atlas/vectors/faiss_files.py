"""The FAISS files of `vectors/`: how one is built, which row of `indexes` allows its use, and its state.

Kinds, by the bytes of the vectors as float32 (rows x dimension x 4), from benchmarks/vectors.py:

    flat   float32, up to 1 GiB (352,256 x 384 are 0.5 GiB: 23 ms a question)
    fp16   half the bytes, up to 8 GiB
    ivf    inverted lists of float32 above that: approximate, as it searches only some of the lists

The file is written before its row, so that a row never names a missing file. The row has a hash over the run's vectors,
which is computed again before the file is used: a file of other vectors is stale.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from atlas.errors import IntegrityError, UsageError
from atlas.store.atomic import sha256, write_atomically
from atlas.store.database import open_readonly

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection

FLAT, FP16, IVF = "flat", "fp16", "ivf"
KINDS = (FLAT, FP16, IVF)
FLAT_BYTES, FP16_BYTES = 2**30, 2**33
PROBES = 16
"""Lists that an ivf index searches; more where these have too few vectors."""

FRESH, STALE, MISSING, NONE = "fresh", "stale", "missing", "none"

STREAM = 65_536
"""Vectors that are given to FAISS at once."""


def unit(matrix: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1, as float32; rows of zeros, and those that are not finite, become zeros."""
    values = np.asarray(matrix, dtype=np.float64)
    values = np.where(np.isfinite(values).all(-1, keepdims=True), values, 0.0)
    length = np.linalg.norm(values, axis=-1, keepdims=True)
    normalised: np.ndarray = np.divide(values, length, out=np.zeros_like(values), where=length > 0).astype(np.float32)
    return normalised


def index_file(path: Path, run_id: str) -> Path:
    """Where a run's index is stored."""
    return path / "vectors" / f"{run_id}.faiss"


def kind_for(rows: int, dimension: int) -> str:
    """The kind of index for `rows` vectors."""
    size = 4 * rows * dimension
    return FLAT if size <= FLAT_BYTES else FP16 if size <= FP16_BYTES else IVF


def index_row(connection: Connection, run_id: str) -> dict[str, Any] | None:
    """The row of `indexes` for a run, or None."""
    rows = connection.sql("SELECT * FROM indexes WHERE run_id = $run", params={"run": run_id}).to_arrow_table()
    by_date = rows.sort_by([("built_at", "descending")]).to_pylist()
    return by_date[0] if by_date else None


def content_of(connection: Connection, run_id: str) -> tuple[int, int, str]:
    """A run's number of vectors, their dimension, and a hash over their addresses and values.

    Raises:
        IntegrityError: they differ in dimension.
    """
    query = """
SELECT count(*), coalesce(min(len(vector)), 0), coalesce(max(len(vector)), 0),
       coalesce(sum(hash(component, layer, neuron, vector)), 0)::VARCHAR
FROM vectors WHERE run_id = $run"""
    rows, least, most, content = connection.execute(query, {"run": run_id}).fetchall()[0]
    if least != most:
        raise IntegrityError(
            f"the vectors of run {run_id[:8]} have {least} to {most} dimensions; `atlas db check` lists what is wrong"
        )
    return int(rows), int(most), str(content)


def problem_of(connection: Connection, path: Path, row: dict[str, Any]) -> str:
    """Why the file that a row of `indexes` names must not be used; "" where it may be."""
    file = index_file(path, str(row["run_id"]))
    if row["kind"] not in KINDS:
        return f"the database calls it '{row['kind']}', which is not a kind of index"
    if not file.is_file():
        return "its file is missing"
    size = file.stat().st_size
    if size != row["bytes"]:
        return f"its file has {size:,} bytes, not {row['bytes']:,}"
    if sha256(file) != row["sha256"]:
        return "its file was changed (sha256)"
    try:
        now = content_of(connection, str(row["run_id"]))
    except IntegrityError as error:
        return str(error)
    if now != (row["rows"], row["dimension"], row["content"]):
        return "the vectors have changed since it was built"
    return ""


def build_index(path: Path, run_id: str, kind: str | None = None) -> dict[str, Any]:
    """Build a run's index and its row in the database.

    kind: flat, fp16 or ivf; by default that of `kind_for`.

    Returns:
        The row.

    Raises:
        UsageError: an unknown kind, or a run without vectors.
        StoreUnavailable: the database cannot be written now.
    """
    import sqlalchemy as sa

    from atlas.store import engine, ledger
    from atlas.store.arrow_types import arrow_schema
    from atlas.store.insert import insert
    from atlas.store.schema import indexes

    if kind not in (None, *KINDS):
        raise UsageError(f"no kind of index called '{kind}'; there are: {', '.join(KINDS)}")
    with open_readonly(path) as connection:
        rows, dimension, content = content_of(connection, run_id)
        if not rows or not dimension:
            raise UsageError(f"run {run_id[:8]} has no vectors; `atlas index build` makes some")
        kind = kind or kind_for(rows, dimension)
        index = _fill_index(connection, run_id, kind, rows, dimension)
    file = index_file(path, run_id)
    row = {"run_id": run_id, "kind": kind, "rows": rows, "dimension": dimension, "content": content}
    with engine.connect_writer(path) as writer:
        if content_of(engine.raw(writer), run_id) != (rows, dimension, content):
            raise IntegrityError(f"the vectors of run {run_id[:8]} changed while their index was built; build it again")
        _write(index, file)  # under the writer's lock
        row |= {"bytes": file.stat().st_size, "sha256": sha256(file), "built_at": ledger.now()}
        writer.execute(sa.delete(indexes).where(indexes.c.run_id == run_id))
        insert(writer, indexes, pa.Table.from_pylist([row], schema=arrow_schema(indexes)))
    return row


def _write(index: Any, file: Path) -> None:
    import faiss

    write_atomically(file, lambda temporary: faiss.write_index(index, str(temporary)))


def _fill_index(connection: Connection, run_id: str, kind: str, rows: int, dimension: int) -> Any:
    """A FAISS index of a run's vectors, in the order of their addresses."""
    import faiss

    index: Any
    if kind == FLAT:
        index = faiss.IndexFlatIP(dimension)
    elif kind == FP16:
        index = faiss.IndexScalarQuantizer(dimension, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    else:
        lists = min(rows, 2 ** round(math.log2(2 * math.sqrt(rows))))
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dimension), dimension, lists, faiss.METRIC_INNER_PRODUCT)
        index.cp.min_points_per_centroid = 1  # no warning for small indexes
        step = max(1, rows // (64 * lists))
        sample = f"SELECT vector FROM vectors WHERE run_id = $run AND hash(component, layer, neuron) % {step} = 0"
        samples = [_matrix(batch) for batch in _batches(connection, sample, run_id)]
        index.train(np.concatenate(samples))
    if kind == FP16:
        index.train(np.zeros((1, dimension), np.float32))  # half precision learns nothing, but FAISS requires the call
    query = "SELECT vector FROM vectors WHERE run_id = $run ORDER BY component, layer, neuron"
    for batch in _batches(connection, query, run_id):
        index.add(_matrix(batch))
    return index


def _batches(connection: Connection, query: str, run_id: str) -> Any:
    return connection.sql(query, params={"run": run_id}).to_arrow_reader(STREAM)


def _matrix(batch: pa.RecordBatch) -> np.ndarray:
    column = batch.column(0)
    values = column.flatten().to_numpy(zero_copy_only=False)
    return np.ascontiguousarray(values.reshape(len(column), -1), dtype=np.float32)


def state_of(connection: Connection, path: Path, run_id: str) -> dict[str, Any]:
    """The state of a run's index: kind and bytes (null without one), fresh, stale, missing or none."""
    row = index_row(connection, run_id)
    if row is None:
        return {"kind": None, "state": NONE, "bytes": None}
    if not index_file(path, run_id).is_file():
        return {"kind": row["kind"], "state": MISSING, "bytes": None}
    state = STALE if problem_of(connection, path, row) else FRESH
    return {"kind": row["kind"], "state": state, "bytes": index_file(path, run_id).stat().st_size}
