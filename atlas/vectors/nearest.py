"""Nearest neurons by their vectors: exact search in DuckDB, or a FAISS file that gives the same faster.

`vectors/<run_id>.faiss` is a cache. The row of table `indexes` decides whether it is used: its size and sha256 must be
the row's, and the row's content must be that of the run's vectors now. Otherwise exact search answers the question,
with one warning, and the file is rebuilt where the database can be written. A file that no row names is never read.
Without FAISS (the extra `index`), exact search answers too.

However the candidates are found, their similarity is the dot product of the stored float32 vectors in double precision,
rounded to float32; equal ones are ordered by address. So flat, fp16 and exact search give the same answers: candidates
are fetched until the first one left out is too far below the last one needed for rounding to matter.
"""

from __future__ import annotations

import importlib.util
import threading
import warnings
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from atlas.errors import AtlasError, AtlasWarning, UsageError
from atlas.neurons import Neuron
from atlas.store.database import database_file, open_readonly, wal
from atlas.vectors.faiss_files import (
    FLAT,
    FP16,
    IVF,
    KINDS,
    PROBES,
    build_index,
    index_file,
    index_row,
    problem_of,
    unit,
)

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection

NO_FAISS = "FAISS is not installed (pip install 'neuron-atlas[index]')"
HITS = pa.schema(
    [("component", pa.string()), ("layer", pa.int16()), ("neuron", pa.int32()), ("similarity", pa.float32())]
)


def margin(kind: str, dimension: int) -> float:
    """Twice the largest error of a kind's own similarity of vectors of length 1: in float32 sums one part in 2^24 for
    each coordinate, in half precision one part in 2^11 of each product, which add up to 1 at most."""
    return 2 * (dimension * 2.0**-24 + (2.0**-11 + 1e-5 if kind == FP16 else 0.0))


class IndexIgnored(AtlasWarning):
    """A similarity index could not be used; the answer is that of exact search."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A verified FAISS index, with each row's address, its id in the table, and whether its vector is not zeros."""

    index: Any
    kind: str
    components: list[str]
    layers: np.ndarray
    neurons: np.ndarray
    rowids: np.ndarray
    nonzero: np.ndarray

    @property
    def rows(self) -> int:
        """The number of vectors."""
        return len(self.layers)

    def addresses(self, at: np.ndarray) -> list[tuple[str, int, int]]:
        """The (component, layer, neuron) of rows, given by their positions."""
        return [(self.components[i], int(self.layers[i]), int(self.neurons[i])) for i in at]


Stamp = tuple[tuple[int, int, int] | None, ...]
_loaded: OrderedDict[tuple[Path, str], tuple[Stamp, Loaded | None]] = OrderedDict()
_lock = threading.Lock()
MOST_LOADED = 4
"""Loaded indexes that a process keeps."""

CHECKED_ROWS = 32
"""Rows of a loaded index that are compared with the database."""

ADDRESSES = """
SELECT component, layer, neuron, rowid, list_inner_product(vector, vector) > 0 AS nonzero
FROM vectors WHERE run_id = $run ORDER BY component, layer, neuron"""


def nearest(path: Path, run_id: str, vector: np.ndarray, top: int, skip: Neuron | None = None) -> pa.Table:
    """The neurons whose vectors of this run have the largest cosine with a vector, best first: component, layer,
    neuron, similarity. Neurons whose vector is zeros are left out, and so is `skip`.

    vector: (dimension,), not zeros.

    Raises:
        UsageError: it has another dimension than the run's vectors, or is zeros.
    """
    query = unit(np.asarray(vector)[None])[0]
    if not query.any():
        raise UsageError("a vector of zeros has no nearest neurons; give another vector")
    loaded = usable(path, run_id)
    if loaded is None:
        with open_readonly(path) as connection:
            return exact(connection, run_id, query, top, skip)
    if len(query) != loaded.index.d:
        raise UsageError(f"the vector has {len(query)} dimensions, those of run {run_id[:8]} have {loaded.index.d}")
    return _by_index(path, run_id, loaded, query, top, skip)


def exact(connection: Connection, run_id: str, query: np.ndarray, top: int, skip: Neuron | None = None) -> pa.Table:
    """`nearest` by exact search in the database. query: (dimension,) of length 1."""
    sizes = connection.sql("SELECT len(vector) FROM vectors WHERE run_id = $run LIMIT 1", params={"run": run_id})
    for (size,) in sizes.fetchall():
        if size != len(query):
            raise UsageError(f"the vector has {len(query)} dimensions, those of run {run_id[:8]} have {size}")
    statement = """
SELECT component, layer, neuron, list_inner_product(vector::DOUBLE[], $query::DOUBLE[])::FLOAT AS similarity
FROM vectors
WHERE run_id = $run AND (component, layer, neuron) <> ($component, $layer, $neuron)
    AND (similarity <> 0 OR list_inner_product(vector, vector) > 0)
ORDER BY similarity DESC, component, layer, neuron LIMIT $top"""
    skipped = (skip.component, skip.layer, skip.index) if skip is not None else ("", -1, -1)
    values = dict(zip(("component", "layer", "neuron"), skipped, strict=True))
    values |= {"run": run_id, "query": query.astype(np.float64).tolist(), "top": top}
    return connection.sql(statement, params=values).to_arrow_table().cast(HITS)


def _by_index(path: Path, run_id: str, loaded: Loaded, query: np.ndarray, top: int, skip: Neuron | None) -> pa.Table:
    needed, candidates, probes = top + (skip is not None), 0, PROBES
    tolerance = margin(loaded.kind, len(query))
    while True:
        candidates = min(loaded.rows, max(4 * candidates, 4 * needed + 64))
        similarities, positions = _search(loaded, query, candidates, probes)
        valid = positions >= 0
        valid[valid] = loaded.nonzero[positions[valid]]
        # Candidates below this cannot be among the best, even after rounding.
        least = similarities[valid][needed - 1] - tolerance if valid.sum() >= needed else -np.inf
        if positions[-1] < 0 and valid.sum() < needed and probes < loaded.rows:
            probes *= 4  # these lists have too few
        elif candidates == loaded.rows or similarities[-1] < least or positions[-1] < 0:
            break
    positions = positions[valid & (similarities >= least)]
    vectors = _vectors(path, run_id, loaded, positions).astype(np.float64)
    similar = (vectors @ query.astype(np.float64)).astype(np.float32)
    best = np.lexsort((positions, -similar))  # rows are in the order of their addresses
    rows = [(*address, float(similar[i])) for i, address in zip(best, loaded.addresses(positions[best]), strict=True)]
    skipped = None if skip is None else (skip.component, skip.layer, skip.index)
    rows = [row for row in rows if row[:3] != skipped][:top]
    return pa.Table.from_pylist([dict(zip(HITS.names, row, strict=True)) for row in rows], schema=HITS)


def _search(loaded: Loaded, query: np.ndarray, candidates: int, probes: int) -> tuple[np.ndarray, np.ndarray]:
    """Search with FAISS on one thread: it parallelises over queries, so that idle threads slow a single query down."""
    import faiss

    options: Any = faiss.SearchParametersIVF() if loaded.kind == IVF else None
    if options is not None:
        options.nprobe = min(probes, loaded.index.nlist)
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        similarities, positions = loaded.index.search(query[None], candidates, params=options)
    finally:
        faiss.omp_set_num_threads(before)
    return similarities[0], positions[0]


def _vectors(path: Path, run_id: str, loaded: Loaded, positions: np.ndarray) -> np.ndarray:
    """(candidates, dimension) float32, as stored: from the index, or the database where the index rounds them."""
    if loaded.kind != FP16:
        return np.asarray(loaded.index.reconstruct_batch(positions.astype(np.int64)))
    row_addresses = loaded.addresses(positions)
    statement = """
WITH requested AS (SELECT unnest($rows::BIGINT[]) AS row, unnest($place::INTEGER[]) AS place)
SELECT v.component, v.layer, v.neuron, v.vector FROM vectors v JOIN requested q ON v.rowid = q.row
WHERE v.run_id = $run ORDER BY q.place"""
    values = {"run": run_id, "rows": loaded.rowids[positions].tolist(), "place": list(range(len(positions)))}
    with open_readonly(path) as connection:
        rows = connection.sql(statement, params=values).fetchall()
        if [row[:3] for row in rows] != row_addresses:  # written since the index was verified: row ids may have moved
            return stored_vectors(connection, run_id, row_addresses)
    return np.array([row[3] for row in rows], np.float32).reshape(len(positions), -1)


def stored_vectors(connection: Connection, run_id: str, addresses: list[tuple[str, int, int]]) -> np.ndarray:
    """(addresses, dimension) float32 as stored, in the order of the addresses.

    Raises:
        UsageError: the run has no vector of one of them.
    """
    component, layer, neuron = zip(*addresses, strict=True) if addresses else ((), (), ())
    statement = """
WITH requested AS (
    SELECT unnest($component::VARCHAR[]) AS component, unnest($layer::SMALLINT[]) AS layer,
           unnest($neuron::INTEGER[]) AS neuron, unnest($place::INTEGER[]) AS place)
SELECT v.vector FROM vectors v JOIN requested q USING (component, layer, neuron) WHERE v.run_id = $run
ORDER BY q.place"""
    values = {"component": component, "layer": layer, "neuron": neuron, "place": range(len(addresses))}
    params = {"run": run_id, **{name: list(value) for name, value in values.items()}}
    rows = connection.sql(statement, params=params).to_arrow_table()["vector"]
    if len(rows) != len(addresses):
        raise UsageError(f"run {run_id[:8]} has no vector of some of these neurons")
    return np.array(rows.to_pylist(), dtype=np.float32)


def usable(path: Path, run_id: str) -> Loaded | None:
    """The run's index, verified; None where there is none, or it must not be used (then with one warning for each state
    of the file and the database).

    The result is remembered until the index file or the database changes (inode, size or time).
    """
    key = (path.resolve(), run_id)
    with _lock:
        if key in _loaded and _loaded[key][0] == _stamp(path, run_id):
            _loaded.move_to_end(key)
            return _loaded[key][1]
        _loaded.pop(key, None)
        stamp = _stamp(path, run_id)
        with open_readonly(path) as connection:
            row = index_row(connection, run_id)
            loaded = None if row is None else _load(connection, path, row)
        if isinstance(loaded, str):
            warnings.warn(
                f"the similarity index of run {run_id[:8]} is not used: {loaded}; exact search answers instead",
                IndexIgnored,
                stacklevel=3,
            )
            rebuilt = loaded != NO_FAISS and _rebuild_index(path, run_id, str(row["kind"]) if row else "")
            loaded = None
            if rebuilt:
                return None  # the next question finds it
            stamp = _stamp(path, run_id)
        _loaded[key] = (stamp, loaded)
        while len(_loaded) > MOST_LOADED:
            _loaded.popitem(last=False)
        return loaded


def _stamp(path: Path, run_id: str) -> Stamp:
    """A value that changes when the index file, the database or its log are written."""
    stamps: list[tuple[int, int, int] | None] = []
    for file in (index_file(path, run_id), database_file(path), wal(path)):
        try:
            status = file.stat()
            stamps.append((status.st_ino, status.st_size, status.st_mtime_ns))
        except OSError:
            stamps.append(None)
    return tuple(stamps)


def _load(connection: Connection, path: Path, row: dict[str, Any]) -> Loaded | str:
    """The index that a row of `indexes` names, or why it must not be used."""
    if importlib.util.find_spec("faiss") is None:
        return NO_FAISS
    problem = problem_of(connection, path, row)
    if problem:
        return problem
    import faiss

    file, run_id = index_file(path, row["run_id"]), str(row["run_id"])
    index: Any = faiss.read_index(str(file))
    classes = {FLAT: "IndexFlat", FP16: "IndexScalarQuantizer", IVF: "IndexIVFFlat"}
    if not type(index).__name__.startswith(classes[row["kind"]]) or index.metric_type != faiss.METRIC_INNER_PRODUCT:
        return f"its file is not a {row['kind']} index"
    if (index.ntotal, index.d) != (row["rows"], row["dimension"]):
        return "its file has other rows or dimensions than the database"
    if row["kind"] == IVF:
        index.make_direct_map()
    columns = connection.sql(ADDRESSES, params={"run": run_id}).fetchnumpy()
    numbers = (columns[name] for name in ("layer", "neuron", "rowid", "nonzero"))
    loaded = Loaded(index, row["kind"], columns["component"].tolist(), *numbers)
    # A row that was forged to fit a file of other vectors would pass up to here.
    sample = np.unique(np.linspace(0, loaded.rows - 1, CHECKED_ROWS).astype(np.int64))
    stored = stored_vectors(connection, run_id, loaded.addresses(sample))
    if np.abs(index.reconstruct_batch(sample) - stored).max() > 1e-3:
        return "its file has other vectors than the database"
    return loaded


def _rebuild_index(path: Path, run_id: str, kind: str) -> bool:
    """Rebuild the index; returns whether that succeeded, which the question does not depend on."""
    try:
        build_index(path, run_id, kind if kind in KINDS else None)
    except (AtlasError, OSError, RuntimeError, MemoryError):
        return False
    return True


def forget_loaded() -> None:
    """Drop every index that this process has loaded."""
    with _lock:
        _loaded.clear()
