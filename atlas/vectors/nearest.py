"""Nearest neurons by their vectors: exact search in DuckDB, and a FAISS file that is only a faster way to the same.

`vectors/<run_id>.faiss` is a cache. The row of table `indexes` decides whether it is used: its size and sha256 must be
the row's, and the row's content must be that of the run's vectors now. Else the question is answered by exact search,
with one warning, and the file is made again where the database can be written. A file that no row names is never read.
Without FAISS, which the extra `index` brings, exact search answers too.

Whatever finds the candidates, their similarity is the dot product of the stored float32 vectors in double precision,
rounded to float32; equal ones come in the order of their addresses. So flat, fp16 and exact search answer alike:
candidates are fetched until the first one left out is too far below the last one wanted for rounding to matter.
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
    """Twice how far a kind's own similarity of vectors of length 1 can be off: float32 sums by one part in 2^24 for
    each coordinate, half precision by one part in 2^11 of each product, which add up to 1 at most."""
    return 2 * (dimension * 2.0**-24 + (2.0**-11 + 1e-5 if kind == FP16 else 0.0))


class IndexIgnored(AtlasWarning):
    """A similarity index could not be used; the answer is that of exact search."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A FAISS index that was verified, the addresses of its rows, where they lie in the table, and which of them have a
    vector that is not zeros."""

    index: Any
    kind: str
    components: list[str]
    layers: np.ndarray
    neurons: np.ndarray
    rowids: np.ndarray
    something: np.ndarray

    @property
    def rows(self) -> int:
        return len(self.layers)

    def addresses(self, at: np.ndarray) -> list[tuple[str, int, int]]:
        return [(self.components[i], int(self.layers[i]), int(self.neurons[i])) for i in at]


Stamp = tuple[tuple[int, int, int] | None, ...]
_loaded: OrderedDict[tuple[Path, str], tuple[Stamp, Loaded | None]] = OrderedDict()
_lock = threading.Lock()
KEPT = 4
"""Loaded indexes that a process keeps."""

PROBED = 32
"""Rows of a loaded index that are compared with the database."""

ADDRESSES = """
SELECT component, layer, neuron, rowid, list_inner_product(vector, vector) > 0 AS something
FROM vectors WHERE run_id = $run ORDER BY component, layer, neuron"""


def nearest(path: Path, run_id: str, vector: np.ndarray, top: int, skip: Neuron | None = None) -> pa.Table:
    """The neurons whose vectors of this run have the largest cosine with a vector, best first: component, layer,
    neuron, similarity. Neurons whose vector is zeros are left out, and `skip`.

    vector: (dimension,), of any length but 0.

    Raises:
        UsageError: it has another dimension than the run's vectors, or none of its own.
    """
    query = unit(np.asarray(vector)[None])[0]
    if not query.any():
        raise UsageError("a vector of zeros is near nothing")
    found = usable(path, run_id)
    if found is None:
        with open_readonly(path) as connection:
            return exact(connection, run_id, query, top, skip)
    if len(query) != found.index.d:
        raise UsageError(f"the vector has {len(query)} dimensions, those of run {run_id[:8]} have {found.index.d}")
    return _by_index(path, run_id, found, query, top, skip)


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


def _by_index(path: Path, run_id: str, found: Loaded, query: np.ndarray, top: int, skip: Neuron | None) -> pa.Table:
    wanted, many, probes = top + (skip is not None), 0, PROBES
    apart = margin(found.kind, len(query))
    while True:
        many = min(found.rows, max(4 * many, 4 * wanted + 64))
        near, at = _search(found, query, many, probes)
        there = at >= 0
        there[there] = found.something[at[there]]
        # What is not so near the last one wanted can be none of the best, nor equal the last of them.
        least = near[there][wanted - 1] - apart if there.sum() >= wanted else -np.inf
        if at[-1] < 0 and there.sum() < wanted and probes < found.rows:
            probes *= 4  # these lists have too few
        elif many == found.rows or near[-1] < least or at[-1] < 0:
            break
    at = at[there & (near >= least)]
    vectors = _vectors(path, run_id, found, at).astype(np.float64)
    similar = (vectors @ query.astype(np.float64)).astype(np.float32)
    best = np.lexsort((at, -similar))  # rows are in the order of their addresses
    rows = [(*address, float(similar[i])) for i, address in zip(best, found.addresses(at[best]), strict=True)]
    gone = None if skip is None else (skip.component, skip.layer, skip.index)
    rows = [row for row in rows if row[:3] != gone][:top]
    return pa.Table.from_pylist([dict(zip(HITS.names, row, strict=True)) for row in rows], schema=HITS)


def _search(found: Loaded, query: np.ndarray, many: int, probes: int) -> tuple[np.ndarray, np.ndarray]:
    """FAISS on one thread: it shares out questions, not rows, and the idle threads make a single question slower."""
    import faiss

    how: Any = faiss.SearchParametersIVF() if found.kind == IVF else None
    if how is not None:
        how.nprobe = min(probes, found.index.nlist)
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        near, at = found.index.search(query[None], many, params=how)
    finally:
        faiss.omp_set_num_threads(before)
    return near[0], at[0]


def _vectors(path: Path, run_id: str, found: Loaded, at: np.ndarray) -> np.ndarray:
    """(candidates, dimension) float32, as stored: from the index, or the database where the index rounds them."""
    if found.kind != FP16:
        return np.asarray(found.index.reconstruct_batch(at.astype(np.int64)))
    wanted = found.addresses(at)
    statement = """
WITH wanted AS (SELECT unnest($rows::BIGINT[]) AS row, unnest($place::INTEGER[]) AS place)
SELECT v.component, v.layer, v.neuron, v.vector FROM vectors v JOIN wanted w ON v.rowid = w.row
WHERE v.run_id = $run ORDER BY w.place"""
    values = {"run": run_id, "rows": found.rowids[at].tolist(), "place": list(range(len(at)))}
    with open_readonly(path) as connection:
        rows = connection.sql(statement, params=values).fetchall()
        if [row[:3] for row in rows] != wanted:  # written to since the index was verified: rows may lie elsewhere
            return stored_vectors(connection, run_id, wanted)
    return np.array([row[3] for row in rows], np.float32).reshape(len(at), -1)


def stored_vectors(connection: Connection, run_id: str, addresses: list[tuple[str, int, int]]) -> np.ndarray:
    """(addresses, dimension) float32 as stored, in the order of the addresses.

    Raises:
        UsageError: the run has no vector of one of them.
    """
    component, layer, neuron = zip(*addresses, strict=True) if addresses else ((), (), ())
    statement = """
WITH wanted AS (
    SELECT unnest($component::VARCHAR[]) AS component, unnest($layer::SMALLINT[]) AS layer,
           unnest($neuron::INTEGER[]) AS neuron, unnest($place::INTEGER[]) AS place)
SELECT v.vector FROM vectors v JOIN wanted w USING (component, layer, neuron) WHERE v.run_id = $run ORDER BY w.place"""
    values = {"component": component, "layer": layer, "neuron": neuron, "place": range(len(addresses))}
    params = {"run": run_id, **{name: list(value) for name, value in values.items()}}
    rows = connection.sql(statement, params=params).to_arrow_table()["vector"]
    if len(rows) != len(addresses):
        raise UsageError(f"run {run_id[:8]} has no vector of some of these neurons")
    return np.array(rows.to_pylist(), dtype=np.float32)


def usable(path: Path, run_id: str) -> Loaded | None:
    """The run's index, verified; None where there is none, or it is not to be used (then with one warning for each
    state of the file and the database).

    What was verified is remembered until the index file or the database changes (inode, size or time).
    """
    key = (path.resolve(), run_id)
    with _lock:
        if key in _loaded and _loaded[key][0] == _stamp(path, run_id):
            _loaded.move_to_end(key)
            return _loaded[key][1]
        _loaded.pop(key, None)
        now = _stamp(path, run_id)
        with open_readonly(path) as connection:
            row = index_row(connection, run_id)
            found = None if row is None else _load(connection, path, row)
        if isinstance(found, str):
            warnings.warn(
                f"the similarity index of run {run_id[:8]} is not used: {found}; exact search answers instead",
                IndexIgnored,
                stacklevel=3,
            )
            mended = found != NO_FAISS and _mended(path, run_id, str(row["kind"]) if row else "")
            found = None
            if mended:
                return None  # the next question finds it
            now = _stamp(path, run_id)
        _loaded[key] = (now, found)
        while len(_loaded) > KEPT:
            _loaded.popitem(last=False)
        return found


def _stamp(path: Path, run_id: str) -> Stamp:
    """What tells whether the index file, the database or its log were written to."""
    stamps: list[tuple[int, int, int] | None] = []
    for file in (index_file(path, run_id), database_file(path), wal(path)):
        try:
            found = file.stat()
            stamps.append((found.st_ino, found.st_size, found.st_mtime_ns))
        except OSError:
            stamps.append(None)
    return tuple(stamps)


def _load(connection: Connection, path: Path, row: dict[str, Any]) -> Loaded | str:
    """The index that a row of `indexes` names, or why it is not to be used."""
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
        return f"its file is no {row['kind']} index"
    if (index.ntotal, index.d) != (row["rows"], row["dimension"]):
        return "its file has other rows or dimensions than the database says"
    if row["kind"] == IVF:
        index.make_direct_map()
    columns = connection.sql(ADDRESSES, params={"run": run_id}).fetchnumpy()
    numbers = (columns[name] for name in ("layer", "neuron", "rowid", "something"))
    found = Loaded(index, row["kind"], columns["component"].tolist(), *numbers)
    # A row that was made to fit the file of other vectors would pass so far.
    some = np.unique(np.linspace(0, found.rows - 1, PROBED).astype(np.int64))
    mine = stored_vectors(connection, run_id, found.addresses(some))
    if np.abs(index.reconstruct_batch(some) - mine).max() > 1e-3:
        return "its file has other vectors than the database"
    return found


def _mended(path: Path, run_id: str, kind: str) -> bool:
    """Whether the index could be made again; the question does not depend on it."""
    try:
        build_index(path, run_id, kind if kind in KINDS else None)
    except (AtlasError, OSError, RuntimeError, MemoryError):
        return False
    return True


def forget_loaded() -> None:
    """Let go of every index that this process keeps."""
    with _lock:
        _loaded.clear()
