"""An atlas worth handing on, and bundles of it that were tampered with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from older_atlas import older_decodings

from atlas.edits import library as edit_library
from atlas.edits.edit import Change, Intervention
from atlas.neurons import Neuron
from atlas.query import saved
from atlas.query.neuron_set import neuron_set
from atlas.store import create, engine, run_loader, run_manifest, run_writer
from atlas.store.atomic import sha256

MODEL = "f" * 64
HERE, WEIGHTS = "/home/ada/pictures of dogs", "/weights of ada/tiny"
"""Where a dataset and a model lie on the machine that the bundle comes from."""


def fill(path: Path, make_run: Callable[..., Any]) -> Path:
    """An atlas with two runs of one model, one of which has no tokens; three edits, one with deltas; a selection."""
    create.init(path)
    first, second = make_run(1, name=WEIGHTS), make_run(2, concepts=("cat", "horse"), name=WEIGHTS)
    first.head["dataset"]["path"] = HERE
    first.head["run"]["job"] |= {"weights": "/data/models/tiny", "classes": ["/m/01g317", "a/b"]}
    first.head["run"]["outcome"] |= {"skipped": {f"{HERE}/7.jpg": f"cannot read {HERE}/7.jpg: cut"}}
    del second.tables["decodings"]
    with engine.connect_writer(path) as connection:
        for run in (first, second):
            run_loader.load_run(connection, run.write(path))
    add_edit(path, "soft", 0.5)
    add_edit(path, "soft", 0.25)
    add_edit(path, "swap", 1.0, deltas=np.eye(1, 4, dtype=np.float32))
    add_selection(path, "dogs", "1/3", "0/2")
    return path


def add_edit(path: Path, name: str, gain: float, deltas: np.ndarray | None = None, **provenance: Any) -> Any:
    change = Change(Neuron("language", 1, 3), gain=gain, write=None if deltas is None else 0)
    about = {"fingerprint": MODEL, "concept": "dog", "weights": f"{WEIGHTS}/config.json", **provenance}
    return edit_library.new(path, name, Intervention((change,), deltas=deltas), about)


def add_selection(path: Path, name: str, *neurons: str) -> None:
    about = {"fingerprint": MODEL, "maps": [{"model": WEIGHTS, "concept": "dog", "method": "contribution"}]}
    saved.save(path, name, neuron_set(tuple(map(Neuron.parse, neurons)), about))


def tree(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def said(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "bundle.json").read_text())
    return found


def write(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content))


def change(file: Path, **fields: Any) -> None:
    write(file, json.loads(file.read_text()) | fields)


def entry(file: Path) -> dict[str, Any]:
    return {"bytes": file.stat().st_size, "sha256": sha256(file)}


def sign(folder: Path) -> None:
    """Make every sum and number of rows what the files are now: a forger who knows the form."""
    for file in folder.glob("runs/*/manifest.json"):
        found = json.loads(file.read_text())
        for name in found["files"]:
            if (file.parent / name).is_file():
                found["files"][name] = entry(file.parent / name) | {"rows": found["files"][name]["rows"]}
                rows = rows_of(file.parent / name)
                found["files"][name]["rows"] = found["files"][name]["rows"] if rows is None else rows
        write(file, found)
    whole = said(folder)
    kept = [n for n in whole["files"] if (folder / n).is_file()]
    write(folder / "bundle.json", whole | {"files": {n: entry(folder / n) for n in kept}})


def rows_of(file: Path) -> int | None:
    try:
        return int(pq.read_metadata(file).num_rows)
    except (pa.ArrowException, OSError):
        return None


def a_run(folder: Path) -> Path:
    return next(f for f in sorted(folder.glob("runs/*")) if (f / "decodings.parquet").exists())


def rewrite(file: Path, column: str, value: Callable[[list[Any]], list[Any]]) -> None:
    """Change a column of a Parquet file."""
    table = pq.read_table(file)
    at = table.schema.get_field_index(column)
    new = pa.array(value(table[column].to_pylist()), table.schema.field(column).type)
    pq.write_table(table.set_column(at, table.schema.field(column), new), file)


def older(folder: Path) -> None:
    """Make a run what a program of schema 0003 wrote: maps without `kept`, scores best first, effects unclustered."""
    maps, scores = (pq.read_table(folder / f"{name}.parquet") for name in ("maps", "scores"))
    pq.write_table(maps.drop_columns(["kept"]), folder / "maps.parquet")
    effects = pq.read_table(folder / "effects.parquet")
    pq.write_table(
        effects.drop_columns(["clusters", "effective", "method", "dose", "reduce", "target"]),
        folder / "effects.parquet",
    )
    pq.write_table(scores.sort_by([("map_id", "ascending"), ("rank", "ascending")]), folder / "scores.parquet")
    decodings = folder / "decodings.parquet"
    pq.write_table(older_decodings(pq.read_table(decodings)), decodings)
    points = folder / "points.parquet"
    pq.write_table(pq.read_table(points).drop_columns(["condition"]), points)
    change(folder / run_manifest.NAME, schema="0003")


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def rerun(path: Path, run: Any, tables: Mapping[str, pa.Table]) -> None:
    """Store a run again with other rows, as another machine would have found them."""
    folder = path / "runs" / run.run_id
    run_writer.write_run(folder, run.head, {**run.tables, **tables})
    with engine.connect_writer(path) as connection:
        run_loader.load_run(connection, folder)
