"""A small atlas with one run of everything, for the tests of the store."""

from __future__ import annotations

import hashlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from atlas.store import arrow_types, create, engine, run_loader, run_writer, schema

REPOSITORY = Path(__file__).resolve().parents[2]
LAYERS, WIDTH = 2, 8


def rows(table: str, values: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(values, schema=arrow_types.arrow_schema(schema.metadata.tables[table]))


@dataclass(frozen=True)
class Run:
    """A run in memory: what `write_run` takes."""

    head: dict[str, Any]
    tables: dict[str, pa.Table]

    @property
    def run_id(self) -> str:
        return str(self.head["run"]["run_id"])

    def write(self, path: Path) -> Path:
        folder = path / "runs" / self.run_id
        run_writer.write_run(folder, self.head, self.tables)
        return folder


def model_row(**changed: Any) -> dict[str, Any]:
    row = {"name": "tiny", "revision": None, "fingerprint": "f" * 64, "model_type": "llava", "layers": LAYERS}
    return row | {"width": WIDTH, "d_model": 4, "vocabulary": 32, "created_at": "2026-01-01T00:00:00"} | changed


def dataset_row(**changed: Any) -> dict[str, Any]:
    row = {"name": "scenes", "path": None, "revision": "1", "licence": "CC0", "created_at": "2026-01-01T00:00:00"}
    return row | changed


def concept_row(name: str) -> dict[str, Any]:
    return {"name": name, "supercategory": "animal", "category_id": None, "forms": [name, f"{name}s"]}


def score_rows(local: int, seed: int) -> list[dict[str, Any]]:
    """Every neuron once, in their order; small whole numbers, so that there are ties."""
    generator = np.random.default_rng(seed)
    neurons = [(layer, neuron, float(generator.integers(5))) for layer in range(LAYERS) for neuron in range(WIDTH)]
    ranks = {n: rank for rank, n in enumerate(sorted(neurons, key=lambda n: (-n[2], n[0], n[1])), start=1)}
    return [{"map_id": local, "layer": n[0], "neuron": n[1], "score": n[2], "rank": ranks[n]} for n in neurons]


def build_run(seed: int = 0, *, concepts: tuple[str, ...] = ("dog", "cat"), **model: Any) -> Run:
    """A finished run: a map for every concept and one for all of them, and a row or two of every other table."""
    run_id = hashlib.sha256(str(seed).encode()).hexdigest()
    example = hashlib.sha256(concepts[0].encode()).hexdigest()[:32]
    said = {"job": {"seed": seed}, "environment": {"torch": "2"}, "outcome": {"examples": 1}}
    times = {"started_at": "2026-01-01T00:00:00", "finished_at": f"2026-01-01T00:00:{seed:02}"}
    head = {
        "run": {"run_id": run_id, "kind": "ingest", **said, **times},
        "model": model_row(**model),
        "dataset": dataset_row(),
        "concepts": [concept_row(name) for name in concepts],
    }
    of_map = {"run_id": run_id, "model_id": 0, "method": "contribution", "source": "image", "target": "text"}
    of_map |= {"component": "language", "reduce": "mean", "tap": "product", "parameters": "{}", "examples": 1}
    of_map |= {"neurons": LAYERS * WIDTH, "mean": 0.5, "std": 0.25, "kept": LAYERS * WIDTH}
    local = [None, *range(len(concepts))]
    neuron = {"component": "language", "layer": 1, "neuron": 3}
    exemplar = {"run_id": run_id, **neuron, "source": "image", "rank": 1, "example_id": example, "position": 4}
    tokens = {"tokens": [" dog", "Ġdog's"], "token_ids": [7, 8], "values": [1.5, 1.25]}
    effect = {"run_id": run_id, "edit": "no-dog@1", "concept": concepts[0], "source": "text", "task": "name"}
    effect |= {"subset": "concept", "condition": "edit", "metric": "accuracy", "value": 0.1, "low": None, "high": 0.2}
    measure = {"run_id": run_id, "name": "linear_cka", "method": None, "concept": concepts[0], "source": "image"}
    measure |= {"layer": 1, "first": "text", "second": "image", "condition": "before", "value": 0.5, "low": None}
    point = {"run_id": run_id, "projection": "pca", "layer": 1, "example_id": example, "position": 2, "role": "text"}
    shown = {"source": "image", "task": "caption", "split": "find", "prompt": "?", "answer": None, "media": ["a.jpg"]}
    tables = {
        "maps": rows("maps", [{**of_map, "map_id": i, "concept_id": c} for i, c in enumerate(local)]),
        "scores": rows("scores", [row for i in range(len(local)) for row in score_rows(i, seed + i)]),
        "examples": rows("examples", [{"example_id": example, "dataset_id": 0, **shown, "concepts": [concepts[0]]}]),
        "exemplars": rows("exemplars", [{**exemplar, "role": "image", "token": "<image>", "value": 2.5}]),
        "decodings": rows("decodings", [{"model_id": 0, **neuron, "projection": "plain", "side": "top", **tokens}]),
        "labels": rows("labels", [{"run_id": run_id, **neuron, "label": "image", "rule": "max", "score": 0.75}]),
        "responses": rows(
            "responses",
            [{"model_id": 0, "example_id": example, "generation": "g", "text": "a dog", "token_ids": [1, 7]}],
        ),
        "effects": rows("effects", [{**effect, "examples": 10, "seeds": 3}]),
        "measures": rows("measures", [{**measure, "high": 0.75, "examples": 9}]),
        "points": rows("points", [{**point, "x": 0.5, "y": -2.0, "condition": "before"}]),
    }
    return Run(head, tables)


def contents(path: Path) -> Mapping[str, list[tuple[Any, ...]]]:
    """Every row of every table, in order: two databases with equal contents answer everything alike."""
    with engine.connect_readonly(path) as connection:
        return {
            table.name: sorted(map(tuple, connection.execute(table.select())), key=repr)
            for table in schema.metadata.sorted_tables
        }


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """An atlas without rows."""
    path = tmp_path / "empty.atlas"
    create.init(path)
    return path


@pytest.fixture(scope="session")
def make_run() -> Callable[..., Run]:
    return build_run


@pytest.fixture
def dump() -> Callable[[Path], Mapping[str, list[tuple[Any, ...]]]]:
    return contents


def add_maps(path: Path, run: Run, found: Mapping[str, Mapping[str | None, Any]], **columns: Any) -> None:
    """Store a run with these maps instead of its own: method -> concept (None for all) -> (layer, neuron) -> score.

    columns: of every map, such as source="text". Several calls with runs of one seed cannot be.
    """
    names = [concept["name"] for concept in run.head["concepts"]]
    pattern = run.tables["maps"].to_pylist()[0] | columns
    maps: list[dict[str, Any]] = []
    scores: list[dict[str, Any]] = []
    for method, by_concept in found.items():
        for concept, values in by_concept.items():
            best = sorted(values, key=lambda address: (-values[address], address))
            ranks = {address: rank for rank, address in enumerate(best, start=1)}
            scores += [
                {"map_id": len(maps), "layer": at[0], "neuron": at[1], "score": values[at], "rank": ranks[at]}
                for at in sorted(values)
            ]
            at = {"map_id": len(maps), "concept_id": None if concept is None else names.index(concept)}
            maps.append({**pattern, **at, "method": method, "neurons": len(values), "kept": len(values)})
    tables = {**run.tables, "maps": rows("maps", maps), "scores": rows("scores", scores)}
    with engine.connect_writer(path) as connection:
        run_loader.load_run(connection, replace(run, tables=tables).write(path))


@pytest.fixture(scope="session")
def store_maps() -> Callable[..., None]:
    return add_maps


@pytest.fixture(scope="session")
def filled_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "filled.atlas"
    create.init(path)
    with engine.connect_writer(path) as connection:
        run_loader.load_run(connection, build_run(1).write(path))
        run_loader.load_run(connection, build_run(2, concepts=("cat", "horse")).write(path))
    return path


@pytest.fixture
def filled(filled_once: Path, tmp_path: Path) -> Path:
    """An atlas with two runs, the second of which adds a concept; this test's own copy."""
    return shutil.copytree(filled_once, tmp_path / "filled.atlas")


KILLED_AFTER_COMMIT = """
import os, signal, sys
from pathlib import Path
from atlas.store import engine

with engine.connect_any_version(Path(sys.argv[1]), read_only=False) as connection:
    with connection.begin():
        connection.exec_driver_sql(sys.argv[2])
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def kill_after_commit() -> Callable[[Path, str], None]:
    """Run a statement in a process that is killed right after the commit, before DuckDB folds its log in."""

    def run(path: Path, statement: str) -> None:
        done = subprocess.run([sys.executable, "-c", KILLED_AFTER_COMMIT, str(path), statement], cwd=REPOSITORY)
        assert done.returncode == -signal.SIGKILL

    return run
