"""An atlas of a hundred million scores, built through the project's own load path, against raw SQL on the same file.

    python benchmarks/scale.py [--concepts 80] [--methods 4] [--folder DIR]     # about 6 minutes and 5 GB of disk
    python benchmarks/scale.py --keep large.atlas                               # only builds it

352,256 neurons (32 layers of 11,008) with scores of full entropy. Every question is asked as a user would (`Atlas`,
which opens the file, chooses the maps and reads), and as the least SQL that gives the same rows on an open connection.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from _statements import statement_of
from _timing import interleaved, report

from atlas.api.atlas import Atlas
from atlas.maintain.compact import compact
from atlas.maintain.remove_runs import remove_runs
from atlas.query.answer import Answer
from atlas.store import create, engine
from atlas.store.arrow_types import arrow_schema
from atlas.store.database import database_file, open_readonly
from atlas.store.run_loader import load_run
from atlas.store.run_manifest import folder_of
from atlas.store.run_writer import write_run
from atlas.store.schema import decodings, maps, scores, sketches

LAYERS, WIDTH = 32, 11_008
NEURONS = LAYERS * WIDTH
MOMENT = "2026-01-01T00:00:00.000+00:00"


def run_id(number: int) -> str:
    return f"{number:032x}"


def head(number: int, concepts: int) -> dict[str, Any]:
    run = {"run_id": run_id(number), "kind": "ingest", "job": {"run": number}, "environment": {}, "outcome": {}}
    model = {"name": "m", "revision": None, "fingerprint": "0", "model_type": "llama", "layers": LAYERS, "width": WIDTH}
    dataset = {"name": "d", "path": None, "revision": "0", "licence": "none", "created_at": MOMENT}
    concept = {"supercategory": None, "category_id": None}
    return {
        "run": {**run, "started_at": MOMENT, "finished_at": f"2026-01-01T00:00:{number:02}.000+00:00"},
        "model": {**model, "d_model": 4096, "vocabulary": 32000, "created_at": MOMENT},
        "dataset": dataset,
        "concepts": [{"name": f"c{i:03d}", "forms": [f"c{i}"], **concept} for i in range(concepts)],
    }


def map_rows(number: int, method: str, sources: list[str], concepts: list[int], kept: int = NEURONS) -> pa.Table:
    row = {"run_id": run_id(number), "model_id": 0, "method": method, "target": "text", "component": "language"}
    row |= {"reduce": "mean", "tap": "product", "parameters": "{}", "examples": 1, "neurons": NEURONS}
    row |= {"mean": 0.0, "std": 1.0, "kept": kept}
    both = [(s, c) for s in sources for c in concepts]
    rows = [{**row, "map_id": i, "concept_id": c, "source": s} for i, (s, c) in enumerate(both)]
    return pa.Table.from_pylist(rows, schema=arrow_schema(maps))


def drawn(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(N,) scores and ranks of a map: heavy-tailed, as contributions are."""
    generator = np.random.default_rng(seed)
    values = (generator.standard_normal(NEURONS) * np.exp(generator.standard_normal(NEURONS))).astype(np.float32)
    rank = np.empty(NEURONS, dtype=np.int32)
    rank[np.argsort(-values)] = np.arange(1, NEURONS + 1)
    return values, rank


def score_rows(number: int, count: int, kept: int = NEURONS) -> Iterator[pa.RecordBatch]:
    places = np.divmod(np.arange(NEURONS), WIDTH)
    layer, neuron = places[0].astype(np.int16), places[1].astype(np.int32)
    for i in range(count):
        values, rank = drawn(1000 * number + i)
        here = rank <= kept
        columns = [np.full(int(here.sum()), i, np.int32), layer[here], neuron[here], values[here], rank[here]]
        yield pa.RecordBatch.from_arrays([pa.array(c) for c in columns], schema=arrow_schema(scores))


def sketch_rows(number: int, count: int) -> pa.Table:
    ranks = np.linspace(1, NEURONS, 1001).round().astype(np.int32)
    parts = []
    for i in range(count):
        ordered = np.sort(drawn(1000 * number + i)[0])[::-1]
        columns = [np.full(len(ranks), i, np.int32), ranks, ordered[ranks - 1]]
        parts.append(pa.table([pa.array(c) for c in columns], schema=arrow_schema(sketches)))
    return pa.concat_tables(parts)


def decoding_rows() -> pa.Table:
    layer, neuron = np.divmod(np.arange(NEURONS), WIDTH)
    offsets = pa.array(np.arange(0, 5 * NEURONS + 1, 5, dtype=np.int32))
    words = np.array([f"token{i}" for i in range(2000)], dtype=object)
    ids = np.random.default_rng(0).integers(0, 2000, 5 * NEURONS).astype(np.int32)
    columns = [
        pa.array(np.zeros(NEURONS, np.int32)),
        pa.array(["language"] * NEURONS),
        pa.array(layer.astype(np.int16)),
    ]
    columns += [pa.array(neuron.astype(np.int32)), pa.array(["z"] * NEURONS), pa.array(["top"] * NEURONS)]
    columns += [pa.ListArray.from_arrays(offsets, pa.array(part)) for part in (words[ids], ids, ids.astype(np.float32))]
    return pa.Table.from_arrays(columns, schema=arrow_schema(decodings))


def write(path: Path, number: int, method: str, concepts: int, kept: int = NEURONS, **more: Any) -> int:
    """A run of one method: half of its maps from pictures, half from text. The number of scores."""
    half = list(range(concepts // 2)) or [0]
    table = map_rows(number, method, ["image", "text"], half, kept)
    tables = {"maps": table, "scores": score_rows(number, table.num_rows, kept), **more}
    if kept < NEURONS:
        tables["sketches"] = sketch_rows(number, table.num_rows)
    write_run(folder_of(path, run_id(number)), head(number, concepts), tables)
    return int(table.num_rows) * kept


def load(path: Path, number: int) -> float:
    started = time.perf_counter()
    with engine.connect_writer(path) as connection:
        load_run(connection, folder_of(path, run_id(number)))
    return time.perf_counter() - started


def bare_load(path: Path, number: int) -> float:
    """Seconds of DuckDB's own INSERT ... SELECT of the same Parquet file into an empty database."""
    parquet, file = folder_of(path, run_id(number)) / "scores.parquet", path.with_suffix(".bare")
    with duckdb.connect(str(file)) as bare:
        bare.execute("CREATE TABLE s (map_id INTEGER, layer SMALLINT, neuron INTEGER, score FLOAT, rank INTEGER)")
        started = time.perf_counter()
        bare.execute(f"INSERT INTO s SELECT * FROM read_parquet('{parquet}')")
        bare.execute("CHECKPOINT")
        taken = time.perf_counter() - started
    file.unlink()
    return taken


def questions(atlas: Atlas) -> dict[str, tuple[Callable[[], Answer], str, str]]:
    """Question -> (as a user asks it, the least SQL, target in ms)."""
    ids = {
        name: "SELECT map_id FROM maps JOIN concepts USING (concept_id) WHERE method = 'm1'" + more
        for name, more in (
            ("one", " AND source = 'image' AND name = 'c001'"),
            ("both", " AND name = 'c001'"),
            ("all", " AND source = 'image'"),
        )
    }
    top = f"SELECT layer, neuron, score, rank FROM scores WHERE map_id = ({ids['one']}) AND rank <= 100 ORDER BY rank"
    profile = "SELECT map_id, score, rank FROM scores WHERE layer = 12 AND neuron = 3071"
    shared = f"SELECT layer, neuron FROM scores WHERE map_id IN ({ids['both']}) AND rank <= 1000"
    best = f"SELECT layer, neuron, arg_min(map_id, rank), min(rank) FROM scores WHERE map_id IN ({ids['all']})"
    count = f"SELECT map_id, count(*) FROM scores WHERE map_id IN ({ids['all']}) AND score > 4.5 GROUP BY map_id"
    return {
        "top 100 of a concept": (lambda: atlas.query("c001", "m1", source="image", top=100), top, "<= 5"),
        "one neuron's whole profile": (lambda: atlas.neuron("12/3071", top=1000), profile, "<= 60"),
        "shared by two maps, top 1000": (
            lambda: atlas.shared("c001", "m1", top=1000),
            f"{shared} GROUP BY ALL HAVING count(*) = 2",
            "",
        ),
        "best concept of every neuron": (
            lambda: atlas.query(method="m1", source="image", each=True, top=NEURONS),
            f"{best} GROUP BY ALL",
            "",
        ),
        "count over a threshold, every concept": (
            lambda: atlas.count(method="m1", source="image", score=">4.5"),
            count,
            "",
        ),
    }


def measure(path: Path, label: str, rows: int) -> None:
    """The least SQL, our own statement on the same open connection, and the whole question with opening the file."""
    atlas = Atlas.open(path)
    for name, (asked, sql, target) in questions(atlas).items():
        statement = statement_of(path, asked)
        with open_readonly(path) as connection:
            sides = {"raw": lambda c=connection, s=sql: c.sql(s).to_arrow_table()}
            if statement is not None:
                sides["ours"] = lambda c=connection, s=statement: s.run(c)
            seconds = interleaved(sides, 7)
        whole = interleaved({"whole": asked}, 7)["whole"]
        raw, ours = 1000 * seconds["raw"], 1000 * seconds.get("ours", whole)
        goal = f"{target} for the least SQL" if target else "none"
        said = f"the least SQL {raw:.1f} ms, {ours / raw:.1f} x; the whole question {1000 * whole:.0f} ms"
        report(f"{name}, ms", ours, goal, f"{said}; {label}, {rows:,} scores")


COLD = """
import duckdb, pyarrow, sys, time
with duckdb.connect(sys.argv[1], read_only=True) as c:
    t = time.perf_counter(); c.sql(sys.argv[2]).to_arrow_table(); print(time.perf_counter() - t)
"""


def forget(file: Path) -> None:
    """Drop the file's pages from the system's cache."""
    with file.open("rb") as handle:
        os.fsync(handle.fileno())
        os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def processes(path: Path) -> None:
    """Cold questions, and `atlas query` as a whole process beside one that only imports and asks."""
    file, sql = database_file(path), questions(Atlas(path))["top 100 of a concept"][1]
    taken = []
    for _ in range(5):
        forget(file)
        done = subprocess.run([sys.executable, "-c", COLD, str(file), sql], capture_output=True, text=True, check=True)
        taken.append(1000 * float(done.stdout))
    report("top 100 of a concept, cold, ms of SQL in a fresh process", sorted(taken)[2], "<= 40", "file not in memory")
    ours = [sys.executable, "-m", "cli.main", "query", "--concept", "c001", "--method", "m1", "--top", "100"]
    bare = [sys.executable, "-c", COLD, str(file), sql]
    sides = {"bare": bare, "query": [*ours, "--atlas", str(path)]}
    seconds = interleaved({n: partial(subprocess.run, c, capture_output=True, check=True) for n, c in sides.items()}, 9)
    report("atlas query as a process, seconds", seconds["query"], "<= 0.5", f"{seconds['bare']:.2f} s bare")
    report("atlas query / import and raw SQL", seconds["query"] / seconds["bare"], "<= 1.5", "top 100")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    report("largest reader, MiB", peak, "none", "atlas query")


def upkeep(path: Path, rows: int) -> None:
    """One map replaced in a transaction, a run removed, the file compacted."""
    tables = {"maps": map_rows(50, "m9", ["image"], [0]), "scores": score_rows(50, 1)}
    write_run(folder_of(path, run_id(50)), head(50, 1), tables)
    load(path, 50)
    report("one map replaced, seconds", load(path, 50), "none", f"{NEURONS:,} scores among {rows:,}")
    started = time.perf_counter()
    list(remove_runs(path, [run_id(2)]))
    report("a run removed, seconds", time.perf_counter() - started, "none", f"{rows // 4:,} scores")
    started = time.perf_counter()
    done = compact(path)
    taken = time.perf_counter() - started
    report(
        "compacted, seconds", taken, "none", f"{done.before / 2**20:,.0f} MiB before, {done.after / 2**20:,.0f} after"
    )


def build(path: Path, methods: int, concepts: int) -> None:
    create.init(path)
    total, others = 0, 0
    for number in range(methods):
        started = time.perf_counter()
        count = write(path, number, f"m{number + 1}", concepts)
        written = time.perf_counter() - started
        seconds, total = load(path, number), total + count
        size = database_file(path).stat().st_size
        note = f"{total:,} scores, written in {written:.0f} s"
        report("load, million scores a second", count / seconds / 1e6, ">= 8", note)
        if number == 0:
            bare = bare_load(path, number)
            report("load / bare INSERT ... SELECT of the same Parquet", seconds / bare, "near 1", f"{bare:.1f} s bare")
        if number == 0 or number == methods - 1:
            note = f"{total:,} scores of full entropy, without the decoded tokens"
            report("bytes a score in the database", (size - others) / total, "<= 6", note)
            write_decodings(path)
            others = others or database_file(path).stat().st_size - size
            measure(path, f"{number + 1} methods", total)
    processes(path)
    upkeep(path, total)


def only_build(path: Path, methods: int, concepts: int) -> None:
    """The atlas without a measurement of it."""
    create.init(path)
    for number in range(methods):
        write(path, number, f"m{number + 1}", concepts)
        load(path, number)
    write_decodings(path)


def write_decodings(path: Path) -> None:
    if not folder_of(path, run_id(90)).exists():
        write_run(folder_of(path, run_id(90)), head(90, 1), {"decodings": decoding_rows()})
        load(path, 90)


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--concepts", type=int, default=80)
    options.add_argument("--methods", type=int, default=4)
    options.add_argument("--folder", type=Path, default=None)
    options.add_argument("--keep", type=Path, default=None, help="Only build the atlas here, for benchmarks/serve.py.")
    given = options.parse_args()
    if given.keep is not None:
        only_build(given.keep, given.methods, given.concepts)
        return
    folder = Path(tempfile.mkdtemp(prefix="atlas-scale-", dir=given.folder))
    try:
        create.init(folder / "small.atlas")
        small = write(folder / "small.atlas", 1, "m1", 4)
        load(folder / "small.atlas", 1)
        measure(folder / "small.atlas", "1 method of 4 concepts", small)
        create.init(folder / "kept.atlas")
        write(folder / "kept.atlas", 1, "m1", 20, kept=NEURONS // 10)
        load(folder / "kept.atlas", 1)
        size = database_file(folder / "kept.atlas").stat().st_size
        report("bytes a neuron and map, --keep top 10 %", size / (20 * NEURONS), "<= 6", "with a sketch of 1,001 ranks")
        build(folder / "x.atlas", given.methods, given.concepts)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
