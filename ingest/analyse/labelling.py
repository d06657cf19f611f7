"""Labels from the stored maps of one or several runs, stored as a run of their own that needs no model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from duckdb import DuckDBPyConnection as Connection

import ingest.label_rules
from atlas import registry
from atlas.errors import UsageError
from atlas.store.database import open_readonly
from ingest.attribution.labels import LabelledNeurons, labels_table
from ingest.run.session import derived_run


@dataclass(frozen=True)
class RunMaps:
    """One run's maps of one method, over all its concepts.

    parameters: the method's. layers: those of the maps. maps: (method, source) -> map id.
    """

    run_id: str
    dataset: str
    tap: str
    parameters: Mapping[str, Any]
    model: Mapping[str, Any]
    layers: tuple[int, ...]
    maps: Mapping[tuple[str, str], int]
    connection: Connection = field(repr=False)

    def has(self, method: str, source: str) -> bool:
        """Whether the run has this map."""
        return (method, source) in self.maps

    def sources(self, method: str) -> list[str]:
        """The sources of the method's maps."""
        return [source for name, source in self.maps if name == method]

    def scores(self, method: str, source: str) -> np.ndarray:
        """(L, N) float64; NaN where the map has no score.

        Raises:
            UsageError: the run has no such map.
        """
        if not self.has(method, source):
            available = ", ".join(self.sources(method)) or "none"
            raise UsageError(f"run {self.run_id[:8]} has no {method} map of {source} tokens (there are: {available})")
        query = "SELECT layer, neuron, score FROM scores WHERE map_id = $map"
        rows = self.connection.sql(query, params={"map": self.maps[method, source]}).fetchnumpy()
        out = np.full((len(self.layers), int(self.model["width"])), np.nan)
        out[np.searchsorted(self.layers, rows["layer"]), rows["neuron"]] = rows["score"]
        return out


class Rule(Protocol):
    """Labels neurons from stored maps. method: whose maps it reads."""

    method: str

    def label(self, runs: Sequence[RunMaps]) -> Iterator[LabelledNeurons]:
        """The labels from these runs' maps.

        Raises:
            UsageError: the runs do not suffice.
        """
        ...


@dataclass(frozen=True, slots=True)
class LabelRun:
    """A run of labels. fresh: False where the same labels had been made before. runs: what they were made from."""

    run_id: str
    fresh: bool
    runs: tuple[str, ...]


def make(atlas: Path, rule: str, runs: Sequence[str] = (), options: Mapping[str, Any] | None = None) -> LabelRun:
    """Label neurons by a rule of `ingest/label_rules/`, from the maps of the runs (by default the newest of them).

    runs: beginnings of run ids. options: the rule's parameters.

    Raises:
        UsageError: an unknown rule, run or parameter; maps of different models, taps or layers.
    """
    module = registry.load(ingest.label_rules, rule)
    parameters = registry.resolve(rule, module.build, dict(options or {}))
    built: Rule = module.build(**parameters)
    with open_readonly(atlas) as connection:
        run_maps = [stored(connection, run, built.method) for run in find_runs(connection, runs, built.method)]
        _require_alike(run_maps)
        labels = list(built.label(run_maps))
    ids = tuple(run.run_id for run in run_maps)
    plain = {"rule": rule, "parameters": parameters, "runs": list(ids)}
    if plugins := registry.origins({ingest.label_rules: [rule]}):
        plain["plugins"] = plugins
    with derived_run(atlas, "labels", plain, run_maps[0].model) as run:
        if not run.done:
            table = labels_table(run.run_id, labels)
            run.finish({"labels": table.num_rows}, {"labels": table})
    return LabelRun(run.run_id, not run.done, ids)


def find_runs(connection: Connection, prefixes: Sequence[str], method: str) -> list[str]:
    """The sorted ids of the finished runs with the method's maps whose ids begin with these prefixes; without a prefix
    the newest such run.

    Raises:
        UsageError: no run, or several, begin with a prefix.
    """
    query = f"""
SELECT DISTINCT m.run_id, r.finished_at FROM maps m JOIN runs r USING (run_id)
WHERE r.status = 'done' AND m.concept_id IS NULL AND {_OF_METHOD} ORDER BY r.finished_at DESC"""
    candidates = [str(row[0]) for row in connection.execute(query, {"method": method}).fetchall()]
    if not candidates:
        raise UsageError(f"the atlas has no {method} maps; `atlas ingest --methods {method}` makes them")
    chosen = []
    for prefix in prefixes:
        matching = [run for run in candidates if run.startswith(prefix)]
        if len(matching) != 1:
            problem = "several runs begin" if matching else f"no run with {method} maps begins"
            listed = ", ".join(run[:8] for run in (matching or candidates)[:5])
            raise UsageError(f"{problem} with '{prefix}'; there are: {listed} (`atlas runs` lists all)")
        chosen += matching
    return sorted(set(chosen)) or candidates[:1]


_OF_METHOD = "(m.method = $method OR starts_with(m.method, $method || '.'))"


def stored(connection: Connection, run_id: str, method: str) -> RunMaps:
    """A run's stored maps of a method."""
    query = f"""
SELECT m.map_id, m.method, m.source, m.tap, m.parameters, coalesce(d.name, '') AS dataset, m.model_id
FROM maps m JOIN runs r USING (run_id) LEFT JOIN datasets d ON d.dataset_id = r.dataset_id
WHERE m.run_id = $run AND m.concept_id IS NULL AND {_OF_METHOD} ORDER BY m.map_id"""
    rows = connection.sql(query, params={"run": run_id, "method": method}).to_arrow_table().to_pylist()
    first = rows[0]
    model = connection.sql(
        "SELECT * EXCLUDE (model_id) FROM models WHERE model_id = $model", params={"model": first["model_id"]}
    ).to_arrow_table()
    layers = connection.execute(
        "SELECT DISTINCT layer FROM scores WHERE map_id = $map ORDER BY layer", {"map": first["map_id"]}
    ).fetchall()
    return RunMaps(
        run_id=run_id,
        dataset=first["dataset"],
        tap=first["tap"],
        parameters=json.loads(first["parameters"]),
        model=model.to_pylist()[0],
        layers=tuple(int(layer) for (layer,) in layers),
        maps={(row["method"], row["source"]): int(row["map_id"]) for row in rows},
        connection=connection,
    )


def _require_alike(runs: Sequence[RunMaps]) -> None:
    for name, values in (
        ("models", {run.model["fingerprint"] for run in runs}),
        ("taps", {run.tap for run in runs}),
        ("layers", {run.layers for run in runs}),
    ):
        if len(values) > 1:
            listed = " and ".join(run.run_id[:8] for run in runs)
            raise UsageError(f"the runs {listed} have different {name}; name runs that share them")
