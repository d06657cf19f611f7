"""Labels from the stored maps of one or several runs, stored as a run of its own that needs no model."""

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

    parameters: the method's. layers: those that the maps have. maps: (method, source) -> map id.
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
        return (method, source) in self.maps

    def sources(self, method: str) -> list[str]:
        return [source for name, source in self.maps if name == method]

    def scores(self, method: str, source: str) -> np.ndarray:
        """(L, N) float64; NaN where the map scores a neuron not at all.

        Raises:
            UsageError: the run has no such map.
        """
        if not self.has(method, source):
            there = ", ".join(self.sources(method)) or "none"
            raise UsageError(f"run {self.run_id[:8]} has no {method} map of {source} tokens (there are: {there})")
        query = "SELECT layer, neuron, score FROM scores WHERE map_id = $map"
        rows = self.connection.sql(query, params={"map": self.maps[method, source]}).fetchnumpy()
        out = np.full((len(self.layers), int(self.model["width"])), np.nan)
        out[np.searchsorted(self.layers, rows["layer"]), rows["neuron"]] = rows["score"]
        return out


class Rule(Protocol):
    """method: whose maps it reads. label: may raise UsageError where the runs do not suffice."""

    method: str

    def label(self, runs: Sequence[RunMaps]) -> Iterator[LabelledNeurons]: ...


@dataclass(frozen=True, slots=True)
class LabelRun:
    """A run of labels. fresh: False where the same labels had been made before. runs: what they were made from."""

    run_id: str
    fresh: bool
    runs: tuple[str, ...]


def make(atlas: Path, rule: str, runs: Sequence[str] = (), given: Mapping[str, Any] | None = None) -> LabelRun:
    """Label neurons by a rule of `ingest/label_rules/`, from the maps of the runs (by default the newest of them).

    runs: beginnings of run ids. given: the rule's parameters.

    Raises:
        UsageError: an unknown rule, run or parameter; maps that do not go together.
    """
    module = registry.load(ingest.label_rules, rule)
    parameters = registry.resolve(rule, module.build, dict(given or {}))
    built: Rule = module.build(**parameters)
    with open_readonly(atlas) as connection:
        found = [stored(connection, run, built.method) for run in find_runs(connection, runs, built.method)]
        _require_alike(found)
        labels = list(built.label(found))
    ids = tuple(run.run_id for run in found)
    plain = {"rule": rule, "parameters": parameters, "runs": list(ids)}
    if plugins := registry.origins({ingest.label_rules: [rule]}):
        plain["plugins"] = plugins
    with derived_run(atlas, "labels", plain, found[0].model) as run:
        if not run.done:
            table = labels_table(run.run_id, labels)
            run.finish({"labels": table.num_rows}, {"labels": table})
    return LabelRun(run.run_id, not run.done, ids)


def find_runs(connection: Connection, wanted: Sequence[str], method: str) -> list[str]:
    """The ids of the finished runs that begin so and have the method's maps, sorted; the newest where none is named.

    Raises:
        UsageError: none, or several, begin so.
    """
    query = f"""
SELECT DISTINCT m.run_id, r.finished_at FROM maps m JOIN runs r USING (run_id)
WHERE r.status = 'done' AND m.concept_id IS NULL AND {_OF_METHOD} ORDER BY r.finished_at DESC"""
    there = [str(row[0]) for row in connection.execute(query, {"method": method}).fetchall()]
    if not there:
        raise UsageError(f"the atlas has no {method} maps; `atlas ingest --methods {method}` makes them")
    found = []
    for prefix in wanted:
        mine = [run for run in there if run.startswith(prefix)]
        if len(mine) != 1:
            many = "several runs begin" if mine else f"no run with {method} maps begins"
            shown = ", ".join(run[:8] for run in (mine or there)[:5])
            raise UsageError(f"{many} with '{prefix}'; there are: {shown} (`atlas runs` lists all)")
        found += mine
    return sorted(set(found)) or there[:1]


_OF_METHOD = "(m.method = $method OR starts_with(m.method, $method || '.'))"


def stored(connection: Connection, run_id: str, method: str) -> RunMaps:
    """What a run has of a method."""
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
    for name, said in (
        ("models", {run.model["fingerprint"] for run in runs}),
        ("taps", {run.tap for run in runs}),
        ("layers", {run.layers for run in runs}),
    ):
        if len(said) > 1:
            listed = " and ".join(run.run_id[:8] for run in runs)
            raise UsageError(f"the runs {listed} are of different {name}; labels are made of one")
